"""TMX in any encoding; what is broken costs its own unit alone."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from prep_samples import Record, read

from data_prep import readers
from data_prep.build import Options, build
from data_prep.catalog import Corpus
from data_prep.readers.plain_units import plain_segments
from data_prep.readers.tmx import NOT_ENCODED, NOT_XML, Parser, one_spaced
from data_prep.readers.xml_units import MAX_UNIT, Units
from data_prep.records import no_count
from ernie_m.base.console import InputError


def unit(*segments: tuple[str, str]) -> str:
    return "<tu>" + "".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in segments) + "</tu>\n"


def tmx(*units: str, encoding: str = "UTF-8", declared: str | None = None) -> bytes:
    text = f'<?xml version="1.0" encoding="{declared or encoding}"?>\n<tmx version="1.4"><header/><body>\n'
    return (text + "".join(units) + "</body></tmx>\n").encode(encoding)


def records(folder: Path, content: bytes, languages: tuple[str, str] = ("en", "zh")) -> list[Record]:
    path = folder / "x.tmx"
    path.write_bytes(content)
    return read(Corpus("c", "tmx", languages, (path,)))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("GB2312", "谢谢"),
        ("GB18030", "謝謝"),
        ("Big5", "謝謝"),
        ("Shift_JIS", "ありがとう"),
        ("EUC-KR", "감사"),
        ("windows-1251", "спасибо"),
        ("ISO-8859-1", "à"),
        ("UTF-16", "谢谢"),
        ("UTF-16-LE", "谢谢"),
        ("UTF-32", "谢谢"),
        ("UTF-32-BE", "谢谢"),
        ("UTF-8", "谢谢"),
    ],
)
def test_every_encoding_that_python_knows_is_read(tmp_path: Path, encoding: str, text: str) -> None:
    found = records(tmp_path, tmx(unit(("en", "Thanks"), ("zh", text)), encoding=encoding))
    assert [record.texts for record in found] == [("Thanks", text)]


@pytest.mark.parametrize("name", ["no-such-code", "base64", "rot13"])
def test_an_unknown_encoding_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"x\.tmx: says its encoding is {name}, which is not known; convert it to UTF-8"):
        records(tmp_path, tmx(unit(("en", "a"), ("zh", "b")), declared=name))


def test_a_declaration_of_utf_16_over_bytes_of_utf_8_is_passed_over(tmp_path: Path) -> None:
    (found,) = records(tmp_path, tmx(unit(("en", "a"), ("zh", "谢")), declared="UTF-16"))
    assert found.texts == ("a", "谢")


@pytest.mark.parametrize("encoding", ["GB2312", "UTF-8"])
def test_a_broken_unit_is_rejected_alone_with_its_number(tmp_path: Path, encoding: str) -> None:
    good = [unit(("en", f"{number}"), ("zh", f"谢{number}")) for number in range(6)]
    good[1] = unit(("en", "bad"), ("zh", "BYTES"))
    good[2] = unit(("en", "a < b"), ("zh", "小"))
    good[3] = good[3].replace("</tu>", "")
    good[4] = unit(("en", "&unknown;"), ("zh", "小"))
    content = tmx(*good, encoding=encoding).replace(b"BYTES", b"\xff\xfe")
    found = records(tmp_path, content)
    assert [(r.line, r.reason) for r in found] == [
        (1, None),
        (2, NOT_ENCODED),
        (3, NOT_XML),
        (4, NOT_XML),
        (5, NOT_XML),
        (6, None),
    ]
    assert found[1].texts[0].startswith('<tu><tuv xml:lang="en"><seg>bad')
    assert found[5].texts == ("5", "谢5")


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    content = tmx(unit(("en", "a"), ("zh", "b")), unit(("en", "c"), ("zh", "d")))
    for stop in (len(content) - 12, content.rindex(b"</tu>")):
        with pytest.raises(InputError, match=r"x\.tmx: not a whole TMX file: it ends without </tmx>; download it again"):
            records(tmp_path, content[:stop])


def test_an_absent_language_lists_those_that_are_there(tmp_path: Path) -> None:
    content = tmx(*[unit(("en", "Good day"), ("sr-Latn", "Dobar dan"))] * 3, unit(("DE-at", "Servus")))
    message = r"no unit has both en and sr-Cyrl; its segments are in en \(3\), sr-Latn \(3\), DE-at \(1\); correct"
    with pytest.raises(InputError, match=message):
        records(tmp_path, content, ("en", "sr-Cyrl"))
    assert [r.texts for r in records(tmp_path, content, ("en", "sr")) if not r.reason] == [("Good day", "Dobar dan")] * 3


def test_another_script_than_asked_for_is_not_taken(tmp_path: Path) -> None:
    both = unit(("en", "a"), ("zh-TW", "說"), ("zh-CN", "说"))
    only = unit(("en", "a"), ("zh-TW", "說"))
    found = records(tmp_path, tmx(both, only), ("en", "zh-Hans"))
    assert [(r.texts, r.reason) for r in found] == [(("a", "说"), None), (("a", ""), "no zh-Hans segment")]


def test_further_segments_of_a_language_are_told(tokenizer: Path, tmp_path: Path) -> None:
    units = [unit(("en", "the house"), ("fr", "maison"), ("fr-CA", "other")), unit(("en", "a"), ("fr", "b"), ("fr", "c"))]
    (tmp_path / "x.tmx").write_bytes(tmx(*units))
    (tmp_path / "c.yaml").write_text("corpora: [{name: x, format: tmx, path: x.tmx, languages: [en, fr], held_out: 0}]")
    build(tmp_path / "c.yaml", tokenizer, tmp_path / "out", Options(allow_unknown=True))
    assert "x: 1 further fr segments of a unit, left" in (tmp_path / "out/report.txt").read_text()


def test_comments_and_cdata_hold_no_units_and_name_spaces_are_kept(tmp_path: Path) -> None:
    inside = unit(("en", "<![CDATA[</tu> & <tu>]]>"), ("zh", "b"))
    content = tmx("<!-- " + unit(("en", "no"), ("zh", "no")) + " -->", inside, "<tu/>")
    found = records(tmp_path, content)
    assert [(r.texts, r.reason) for r in found] == [(("</tu> & <tu>", "b"), None), (("", ""), "no en segment")]
    prefixed = content.replace(b"<!--", b"<x:note>").replace(b"-->", b"</x:note>")
    prefixed = (
        b'<t:tmx xmlns:t="http://t" xmlns:x="http://x"><t:body><t:tu><t:tuv xml:lang="en"><t:seg>a</t:seg></t:tuv>'
        b'<t:tuv xml:lang="zh"><t:seg>b<x:y>c</x:y></t:seg></t:tuv></t:tu></t:body></t:tmx>'
    )
    assert [r.texts for r in records(tmp_path, prefixed)] == [("a", "bc")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10**6])
def test_units_do_not_depend_on_the_pieces_of_the_text(size: int) -> None:
    text = "head <!-- <tu> --><tu a='1'>x<![CDATA[</tu>]]></tu> between <tuv/> <tu>open <tu/> <x:tu>y</x:tu > </tmx>"
    units = Units([text[place : place + size] for place in range(0, len(text), size)])
    assert list(units) == [
        ("<tu a='1'>x<![CDATA[</tu>]]></tu>", True),
        ("<tu>open ", False),
        ("<tu/>", True),
        ("<x:tu>y</x:tu >", True),
    ]
    assert units.head == "head <!-- <tu> -->"
    assert units.tail.endswith(" </tmx>")


def test_a_unit_without_an_end_is_bounded() -> None:
    pieces = ["<tmx><tu>", *["x" * (1 << 20)] * 40, "</tu>", "<tu>y</tu></tmx>"]
    found = list(Units(pieces))
    assert [(len(text) <= MAX_UNIT, has_end) for text, has_end in found] == [(True, False), (True, True)]
    assert found[1][0] == "<tu>y</tu>"


def test_chunks_are_those_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tmx"
    path.write_bytes(tmx(*[unit(("en", f"{n} en"), ("zh", f"{n} 谢")) for n in range(200)]))
    corpus = Corpus("c", "tmx", ("en", "zh"), (path,))
    assert len(list(readers.chunks(corpus, 200, no_count))) > 5
    assert [r.texts for r in read(corpus, 200)] == [r.texts for r in read(corpus)]


# -- without a parser --------------------------------------------------------------------------------------------------

PIECES = [
    *["<tu>", "</tu>", '<tu tuid="1" srclang="en">', "<tuv>", '<tuv xml:lang="en">', '<tuv lang="fr">', "</tuv>", "<seg>"],
    *["</seg>", "text", "é\u00a0", "  \n", "\t", "\r\n", "&amp;", "&lt;", "&amp;lt;", "&x;", "&#65;", "&", "<", ">", "]]>"],
    *["\x01", "\ufffe", "<ph/>", "<ph x='1'>b</ph>", '<prop type="x">p</prop>', "<note>n</note>", "<!-- c -->", "\x7f"],
    *[
        '<tuv xml:lang="en" lang="fr">',
        '<tuv lang="en" lang="fr">',
        "<tuv xml:lang='de'>",
        '<tuv a="&lt;" xml:lang="&amp;">',
    ],
    *[
        '<tu xmlns="u">',
        '<tu xmlns:a="">',
        '<tuv a:b="c">',
        "<seg/>",
        "<tuv/>",
        "<![CDATA[<x>]]>",
        '<prop a="1" a="2"/>',
        '"',
    ],
]


def of_parser(xml: str) -> list[tuple[str, str]] | None:
    """What a parser finds, with white space as the reader has it."""
    found = Parser("").segments(xml)
    return None if found is None else [(code, one_spaced(text)) for code, text in found]


def test_what_is_read_without_a_parser_is_what_a_parser_reads() -> None:
    chosen = random.Random(0)
    french = '<tuv lang="fr"><seg>c</seg></tuv></tu>'
    good = '<tu tuid="1"> <prop type="p">x</prop>\n<tuv xml:lang="en"><seg>a &amp; b</seg></tuv>' + french
    parts = re.findall(r"<[^>]*>|[^<]+", good)
    num_plain = num_parsed = 0
    for _ in range(20_000):
        changed = list(parts)
        for _ in range(chosen.randrange(4)):
            place = chosen.randrange(len(changed) + 1)
            changed[place : place + chosen.randrange(2)] = [chosen.choice(PIECES)]
        xml = "".join(changed)
        plain, parsed = plain_segments(xml), of_parser(xml)
        if plain is not None:
            assert [(code, one_spaced(text)) for code, text in plain] == parsed, xml
        num_plain += plain is not None
        num_parsed += parsed is not None
    assert 0.5 * num_parsed < num_plain < num_parsed < 20_000
    for xml in ("<tu/>", '<tu tuid="1" />', '<tu a="" a=""/>', "<tu a=''/>", "<tu>", "<tu></tu>", "<tu/ >"):
        assert plain_segments(xml) in (None, of_parser(xml)), xml
    assert plain_segments("<tu/>") == plain_segments("<tu> </tu>") == []


@pytest.mark.parametrize(
    "xml",
    [
        "<tu>" + " " * 10**6 + "x",
        '<tu a="' + "x" * 10**6,
        "<tu" + ' a="b"' * 10**5 + ">",
        "<tu><tuv><seg>" + "&amp;" * 10**5,
    ],
)
def test_what_a_parser_must_read_is_left_to_it_after_one_look(xml: str) -> None:
    assert plain_segments(xml) is None


@pytest.mark.parametrize("name", ["utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"])
def test_an_encoding_that_gives_letters_another_meaning_is_none_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"x\.tmx: says its encoding is {name}, which is not known"):
        records(tmp_path, tmx(unit(("en", "+2AA- \\ud800"), ("zh", "b")), encoding="ascii", declared=name))


def test_many_name_spaces_are_not_read_again_with_every_unit(tmp_path: Path) -> None:
    declared = "".join(f' xmlns:n{number}="http://{number}"' for number in range(500))
    content = tmx(unit(("en", "a"), ("zh", "b<n1:x/>")), unit(("en", "c"), ("zh", "d")))
    found = records(tmp_path, content.replace(b'<tmx version="1.4"', f'<tmx version="1.4"{declared}'.encode()))
    assert [(record.reason, record.texts[1]) for record in found[1:]] == [(None, "d")]
    assert found[0].reason == NOT_XML


def test_a_code_without_end_is_not_kept(tmp_path: Path) -> None:
    content = tmx(*[unit((str(number) * 10_000, "a"), ("zh", "b")) for number in range(9)])
    with pytest.raises(InputError, match="no unit has both en and zh") as refusal:
        records(tmp_path, content)
    assert len(str(refusal.value)) < 4000
