"""Files made to fill a memory or to take for ever: bounded, or refused by name. How they grow: benchmarks/bombs.py."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import zstandard

from data_prep import limits, readers
from data_prep.catalog import Corpus, read_catalog
from data_prep.limits import Limits
from data_prep.readers import archives, lines, moses, text_file, xml_units
from data_prep.readers.archives import is_language_file, read_pieces, read_tar_member
from data_prep.readers.lines import MAX_LINE_BYTES, TOO_LONG
from data_prep.readers.streams import PLAIN_BYTES
from data_prep.readers.text_file import cuts
from data_prep.readers.tmx import NOT_XML
from data_prep.readers.xml_units import MARK, Units
from data_prep.records import no_count
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

MIB = 1 << 20
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "t.gz": gzip.compress,
    "t.xz": partial(lzma.compress, preset=0),  # a small dictionary
    "t.bz2": bz2.compress,
    "t.zst": zstandard.compress,
}


@contextmanager
def memory_below(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("t.txt", content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [*PACKERS, "t.zip"])
def test_what_a_packed_file_stands_for_comes_in_small_pieces_and_is_refused_out_of_all_proportion(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = tmp_path / name, bytes(8 * MIB)
    path.write_bytes(PACKERS.get(name, zipped)(content))
    with memory_below(6 * MIB if name == "t.zst" else 2 * MIB):
        assert sum(map(len, read_pieces(path, no_count))) == len(content)
    assert max(map(len, read_pieces(path, no_count))) <= PLAIN_BYTES
    monkeypatch.setattr(limits, "FREE_EXPANSION_BYTES", MIB)
    with pytest.raises(InputError, match=rf"{name}: its first [\d,]+ bytes unpack to more than .*expansion: 100}}"):
        list(read_pieces(path, no_count, Limits(expansion=100)))
    assert sum(map(len, read_pieces(path, no_count, Limits(expansion=10**6)))) == len(content)


def test_an_xz_that_needs_much_memory_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.xz").write_bytes(lzma.compress(b"text\n"))
    with pytest.raises(InputError, match=r"t\.xz: needs more than 1 MiB of memory .*xz_memory_mib: 1}"):
        list(read_pieces(tmp_path / "t.xz", no_count, Limits(xz_memory_mib=1)))


def test_a_zst_of_a_large_window_is_refused_by_name(tmp_path: Path) -> None:
    for log, is_read in ((27, True), (28, False)):
        parameters = zstandard.ZstdCompressionParameters(window_log=log, compression_level=1)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        (tmp_path / "t.zst").write_bytes(compressor.compress(b"text\n") + compressor.flush())
        if is_read:
            assert list(read_pieces(tmp_path / "t.zst", no_count)) == [b"text\n"]
        else:
            with pytest.raises(InputError, match=r"t\.zst: needs a window of more than 128 MiB to unpack; pack it again"):
                list(read_pieces(tmp_path / "t.zst", no_count))


def test_an_xz_of_very_many_streams_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xz"
    for count, is_cut in ((1000, True), (1001, False)):
        monkeypatch.setattr(text_file, "MOST_INDEX_READS", 4000)
        path.write_bytes(lzma.compress(b"a line\n") * count)
        assert (cuts(path, 100) is not None) is is_cut
        assert sum(map(len, read_pieces(path, no_count))) == 7 * count


def test_the_catalog_sets_the_limits_of_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    entry = "corpora: [{name: a, format: cc100, language: en, path: a.txt, limits: %s}]"
    path.write_text(entry % "{expansion: 5000}")
    assert read_catalog(path)[0].limits == Limits(expansion=5000)
    for wrong, expected in (
        ("{expansions: 3}", "did you mean limits.expansion"),
        ("{expansion: 0}", "expected"),
        ("3", "mapping"),
    ):
        path.write_text(entry % wrong)
        with pytest.raises(InputError, match=expected):
            read_catalog(path)


# -- archives ----------------------------------------------------------------------------------------------------------


def read_en(path: Path, of: Limits = limits.DEFAULT_LIMITS) -> bytes:
    return b"".join(read_tar_member(path, partial(is_language_file, language="en"), "a text ending in .en", no_count, of))


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(kind: bytes, content: bytes) -> bytes:
    return header("x", kind, len(content)) + content + bytes(-len(content) % 512)


def record(key: str, value: str) -> bytes:
    size = len(key) + len(value) + 3
    size += len(str(size + len(str(size))))
    return f"{size} {key}={value}\n".encode()


TEXT = header("c.en", tarfile.REGTYPE, 2) + b"a\n" + bytes(510)
SPARSE = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", str(10**15))
TARS = {
    "long name": (extended(tarfile.GNUTYPE_LONGNAME, b"x" * MIB) + TEXT, "a header near byte .* is too long"),
    "long attributes": (extended(tarfile.XHDTYPE, b"1" * MIB) + TEXT, "a header near byte .* is too long"),
    "chain of headers": (extended(tarfile.GNUTYPE_LONGNAME, b"") * 1000 + TEXT, "is too long"),
    "attributes for all": (
        b"".join(extended(tarfile.XGLTYPE, record(f"k{i}", "v")) + header("d", tarfile.REGTYPE, 0) for i in range(101)),
        "is too long",
    ),
    "holes": (extended(tarfile.XHDTYPE, SPARSE) + header("c.en", tarfile.REGTYPE, 512) + b"0\n" + bytes(510), "sparse"),
    "backwards": (TEXT + header("d", tarfile.REGTYPE, -1024), "truncated, damaged or no tar"),
}


@pytest.mark.parametrize("what", TARS)
def test_a_tar_with_absurd_headers_is_refused_by_name(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_GLOBAL_HEADERS", 100)
    path = tmp_path / "t.tar.gz"
    content, message = TARS[what]
    path.write_bytes(gzip.compress(content + bytes(1024), 1))
    with memory_below(4 * MIB), pytest.raises(InputError, match=rf"t\.tar\.gz: .*{message}"):
        read_en(path)


def test_a_tar_of_many_members_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.tar.gz"
    path.write_bytes(gzip.compress(header("d.hi", tarfile.REGTYPE, 0) * 1500 + TEXT + bytes(1024), 1))
    assert not agree("hi", "en")  # loads the registry of languages, once a process
    with memory_below(MIB):
        assert read_en(path) == b"a\n"
    with pytest.raises(InputError, match="tar_header_bytes: 1024}"):
        read_en(path, Limits(tar_header_bytes=1024))


def test_a_zip_with_a_long_list_or_an_unbounded_method_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2000):
            archive.writestr(f"{number:0100d}", "")
    with pytest.raises(InputError, match=r"its list of members has [\d,]+ bytes.*zip_directory_bytes"):
        list(read_pieces(path, no_count, Limits(zip_directory_bytes=1 << 17)))
    with pytest.raises(InputError, match="exactly one text"):
        list(read_pieces(path, no_count))
    path.write_bytes(zipped(bytes(1000), zipfile.ZIP_BZIP2))
    with pytest.raises(InputError, match=r"t\.txt is packed by bzip2, expected deflate"):
        list(read_pieces(path, no_count))


# -- bitexts and TMX -----------------------------------------------------------------------------------------------------


def test_a_target_of_endless_lines_beside_a_source_of_empty_ones_is_cut_and_no_pair_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "STRETCH_BYTES", 1000)
    monkeypatch.setattr(moses, "MOST_OF_TARGET", 1)
    (tmp_path / "a").write_text("".join(f"{i}\n" for i in range(3000)))
    (tmp_path / "b").write_text("".join(f"{i} {'x' * (i % 2000)}\n" for i in range(3000)))
    corpus = Corpus("c", "moses", ("de", "en"), (tmp_path / "a", tmp_path / "b"))
    chunks = list(readers.chunks(corpus, 100_000, no_count))
    assert max(len(chunk.content[1]) for chunk in chunks) < 100_000 + (1 << 16)
    assert len(chunks) > 10
    pairs = [pair for chunk in chunks for some in readers.parse(corpus, chunk) for pair in zip(*some.texts, strict=True)]
    assert [int(source) for source, _ in pairs] == [int(target.split()[0]) for _, target in pairs] == list(range(3000))
    numbers = [number for some in readers.parse(corpus, chunks[0]) for number in some.numbers]
    assert numbers == list(range(1, readers.num_lines(chunks[0]) + 1))


UNIT = '<tu><tuv xml:lang="en"><seg>one</seg></tuv><tuv xml:lang="fr"><seg>un</seg></tuv></tu>'


def units(path: Path) -> list[tuple[str, str, str | None]]:
    corpus = Corpus("c", "tmx", ("en", "fr"), (path,))
    return [
        (source[:10], target[:10], some.rejected.get(i))
        for chunk in readers.chunks(corpus, 16 * MIB, no_count)
        for some in readers.parse(corpus, chunk)
        for i, (source, target) in enumerate(zip(*some.texts, strict=True))
    ]


def tmx(*parts: str) -> str:
    return f"<tmx><body>{''.join(parts)}</body></tmx>"


ABSURD_UNITS = {
    "attribute": (f'<tu note="{"x" * 4 * MIB}"/>', {NOT_XML}),
    "open tags": ("<tu><tu " * 1000 + "/>", {NOT_XML, "no en segment"}),
    "levels": ("<tu>" + "<a>" * 200_000 + "</a>" * 200_000 + "</tu>", {NOT_XML}),
    "names": ("<tu>" + "".join(f"<n{i}/>" for i in range(20_000)) + "</tu>", {"no en segment"}),
    "entities": (UNIT.replace("one", "&x;"), {NOT_XML}),
}


@pytest.mark.parametrize("what", ABSURD_UNITS)
def test_an_absurd_unit_is_rejected_and_its_neighbours_survive(tmp_path: Path, what: str) -> None:
    content, reason = ABSURD_UNITS[what]
    head = "<!DOCTYPE tmx [" + '<!ENTITY x "y">' * 1000 + "]>"
    (tmp_path / "a.tmx").write_text(head + tmx(UNIT, content, UNIT))
    with memory_below(14 * MIB):
        found = units(tmp_path / "a.tmx")
    assert (found[0], found[-1]) == (("one", "un", None), ("one", "un", None))
    assert {said for _, _, said in found[1:-1]} == reason


def test_what_is_long_in_a_tmx_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0

    class Counting:
        def search(self, text: str, place: int) -> re.Match[str] | None:
            nonlocal searched
            searched += len(text) - place
            return MARK.search(text, place)

    monkeypatch.setattr(xml_units, "MARK", Counting())
    pieces = [UNIT, "<tu><!--", *["x" * 1000] * 1000, "--></tu>", '<tu a="', *["x" * 1000] * 1000, '"/>', UNIT]
    assert [len(xml) for xml, _ in Units(pieces)][1:3] == [1_000_016, 1_000_010]
    assert searched < 10 * sum(map(len, pieces))


def test_an_endless_segment_is_rejected_as_a_line_is_and_its_neighbours_survive(tmp_path: Path) -> None:
    endless = UNIT.replace("one", "long" + ("é" * 100 + "<ph/> ") * (MAX_LINE_BYTES // 100))
    (tmp_path / "a.tmx").write_text(tmx(UNIT, endless, UNIT), encoding="utf-8")
    with memory_below(24 * MIB):
        found = units(tmp_path / "a.tmx")
    assert found == [("one", "un", None), ("longéééééé", "un", TOO_LONG), ("one", "un", None)]


def test_notes_variants_and_empty_units_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    variants = '<tuv xml:lang="en"><seg>first</seg></tuv>' + '<tuv xml:lang="en"><seg>more</seg></tuv>' * 5_000
    one = tmx("<tu>", "<note>n</note>" * 10_000, variants, '<tuv xml:lang="fr"><seg>un</seg></tuv></tu>', "<tu/>" * 5_000)
    path.write_text(one)
    corpus = Corpus("c", "tmx", ("en", "fr"), (path,))
    with memory_below(2 * MIB):
        chunks = list(readers.chunks(corpus, 1 << 14, no_count))
    assert [readers.num_lines(chunk) for chunk in chunks[:2]] == [2048, 2048]
    assert sum(map(readers.num_lines, chunks)) == 5_001
    some = next(readers.parse(corpus, chunks[0]))
    assert (some.texts[0][0], some.texts[1][0], 0 in some.rejected, some.rejected[1]) == (
        "first",
        "un",
        False,
        "no en segment",
    )


def test_a_unit_at_the_root_is_no_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.tmx").write_text(UNIT)
    with pytest.raises(InputError, match=r"a\.tmx: no TMX file: there is no <tmx> at its beginning"):
        units(tmp_path / "a.tmx")
