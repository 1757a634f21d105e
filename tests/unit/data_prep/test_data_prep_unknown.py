"""A language that the tokenizer does not know is counted, told and refused, not turned into <unk> in silence."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from prep_samples import SMALL, contents, rows_of

from data_prep.build import Options, build
from data_prep.stats import folder_stats
from data_prep.stats_report import stats
from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import UNK_ID
from ernie_m.corpus.folder import Manifest
from ernie_m.corpus.unknown_pieces import ALARM_SHARE, LIMIT_SHARE, Pieces, count
from ernie_m.corpus.vocabulary import Vocabulary

SCRIPTS = {"en": "abcdefghijklm", "am": "ሀለሐመሠረሰሸቀበተቸ", "hi": "कखगघचछजझटठडढ", "th": "กขคงจฉชซญดตถ"}
ALLOWING = dataclasses.replace(SMALL, allow_unknown=True)


def lines(language: str, count: int, seed: int = 0) -> list[str]:
    """Made-up sentences; Thai has no spaces between words."""
    draw = random.Random(f"{language} {seed}")
    space = "" if language == "th" else " "
    words = ("".join(draw.choices(SCRIPTS[language], k=draw.randint(2, 7))) for _ in range(7 * count))
    return [space.join(next(words) for _ in range(7)) for _ in range(count)]


def trained(path: Path, **more: object) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines("en", 400, seed=9)),
        model_writer=model,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=3,
        **more,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that has seen English letters alone."""
    return trained(tmp_path_factory.mktemp("latin") / "spm.model", vocab_size=60)


def catalog_of(folder: Path, texts: dict[str, list[str]]) -> Path:
    """A monolingual corpus a language, and pairs of English with each other one."""
    entries = []
    for language, text in texts.items():
        (folder / f"{language}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
        entries.append(f"  - {{name: m.{language}, format: cc100, path: {language}.txt, language: {language}}}\n")
        if language != "en":
            pairs = zip(lines("en", len(text)), text, strict=True)
            (folder / f"{language}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
            pair = (
                f"{{name: p.en-{language}, format: tsv, path: {language}.tsv, languages: [en, {language}], held_out: 0.1}}"
            )
            entries.append(f"  - {pair}\n")
    (folder / "c.yaml").write_text("corpora:\n" + "".join(entries), encoding="utf-8")
    return folder / "c.yaml"


def reported(out: Path) -> dict[str, dict[str, Pieces]]:
    corpora = json.loads((out / "report.json").read_text(encoding="utf-8"))["corpora"]
    return {corpus["name"]: {k: Pieces(**v) for k, v in corpus["pieces"].items()} for corpus in corpora}


@pytest.mark.parametrize("language", ["am", "hi", "th"])
def test_an_unknown_script_is_refused_by_one_line_before_anything_is_written(
    language: str, latin: Path, tmp_path: Path
) -> None:
    catalog = catalog_of(tmp_path, {"en": lines("en", 50), language: lines(language, 50)})
    with pytest.raises(InputError) as caught:
        build(catalog, latin, tmp_path / "out", SMALL)
    message = str(caught.value)
    for part in (f"% of the pieces of {language} in corpus m.{language} ", f"{language}.txt", "--allow_unknown", "20 %"):
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()
    quarantine = dataclasses.replace(SMALL, on_error="quarantine")
    manifest = build(catalog, latin, tmp_path / "out", quarantine)
    assert manifest is not None
    assert [corpus.name for corpus in manifest.corpora] == ["m.en"]


def test_what_is_taken_all_the_same_is_told_in_build_report_and_statistics(
    latin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {language: lines(language, 60) for language in SCRIPTS}
    out = tmp_path / "out"
    build(catalog_of(tmp_path, texts), latin, out, ALLOWING)
    told = capsys.readouterr().out
    shown = stats(out, 0.3)
    for language in ("am", "hi", "th"):
        of_text, of_pairs = reported(out)[f"m.{language}"][language], reported(out)[f"p.en-{language}"][language]
        for text in (told, (out / "report.txt").read_text(encoding="utf-8")):
            assert f"alarm: {of_text.shown} of the pieces of {language} in corpus m.{language} " in text
            assert f"alarm: {of_pairs.shown} of the pieces of {language} in corpus p.en-{language} " in text
        assert f"alarm: {of_text.shown} of the pieces of {language} are unknown" in shown
        assert of_text.share > LIMIT_SHARE
    assert "pieces of en " not in told + shown
    assert all(s.pieces for s in (*folder_stats(out, 0.3).languages, *folder_stats(out, 0.3).pairs))


def test_the_counts_are_those_of_the_rows(latin: Path, tmp_path: Path) -> None:
    build(catalog_of(tmp_path, {k: lines(k, 60) for k in ("en", "th")}), latin, tmp_path / "out", ALLOWING)
    found = reported(tmp_path / "out")
    for name, column, language in (("m.th", "tokens", "th"), ("p.en-th", "source", "en"), ("p.en-th", "target", "th")):
        rows = [row for split in ("train", "held_out") for row in rows_of(tmp_path / "out", name, split)]
        ids = [i for row in rows for i in row[column]]
        assert found[name][language] == Pieces(len(ids), ids.count(UNK_ID))


def test_a_language_known_in_part_is_an_alarm_and_no_error(latin: Path, tmp_path: Path) -> None:
    foreign = [" ".join(line.split()[:4]) for line in lines("am", 80)]
    text = [f"{line} {words}" for line, words in zip(lines("en", 80), foreign, strict=True)]
    build(catalog_of(tmp_path, {"en": text}), latin, tmp_path / "out", SMALL)
    share = reported(tmp_path / "out")["m.en"]["en"].share
    assert ALARM_SHARE < share < LIMIT_SHARE, "the text was to be of this kind"
    assert "alarm: " in stats(tmp_path / "out", 0.3)


def test_what_the_sample_did_not_show_is_refused_at_the_end_and_nothing_is_done_twice(
    latin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.readers.sampling.PLACES", 1)  # the beginning alone
    options = Options(chunk_bytes=1 << 18)
    catalog = catalog_of(tmp_path, {"en": lines("en", 12_000) + lines("am", 26_000)})
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"of the pieces of en in corpus m\.en .*--allow_unknown"):
        build(catalog, latin, out, options)
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.arrow")}
    assert before
    build(catalog, latin, out, dataclasses.replace(options, allow_unknown=True))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("train-*.arrow")} == before


def test_of_a_model_with_byte_fallback_single_bytes_are_counted(tmp_path: Path) -> None:
    model = trained(tmp_path / "bytes.model", vocab_size=320, byte_fallback=True)
    vocabulary = Vocabulary(model)
    ids = vocabulary.encode("abc ሀለ")
    pieces = vocabulary.pieces(ids.tolist())
    assert UNK_ID not in ids
    assert count(ids, vocabulary.unknown_ids) == Pieces(len(ids), sum(piece.startswith("<0x") for piece in pieces))
    with pytest.raises(InputError, match="pieces of hi in corpus"):
        build(catalog_of(tmp_path, {"hi": lines("hi", 50)}), model, tmp_path / "out", SMALL)


def test_folders_without_counts_are_read_as_before(latin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(catalog_of(tmp_path, {"en": lines("en", 60)}), latin, out, SMALL)
    keys = {"name", "format", "languages", "lines_read", "rejected", "shards"}
    assert set(json.loads((out / "manifest.json").read_text())["corpora"][0]) == keys, "readers of 0.1 take no other"
    before = contents(out)
    for report in ("{}", "[", json.dumps({"corpora": [{"name": "m.en", "languages": ["en"], "left_out": None}]})):
        (out / "report.json").write_text(report)
        assert folder_stats(out, 0.3).languages[0].pieces == {}
    (out / "report.json").unlink()
    assert "alarm" not in stats(out, 0.3)
    assert Manifest.read(out).corpora[0].lines_read == 60
    assert contents(out).items() <= before.items()


def test_shares_and_limits() -> None:
    assert Pieces().share == 0
    assert Pieces(100, 3).alarm("x") is None
    assert "3.01 %" in str(Pieces(10_000, 301).alarm("x"))
    Pieces(100, 20).refuse_unknown("x")
    with pytest.raises(InputError, match="does not know it"):
        Pieces(100, 21).refuse_unknown("x")
    assert count(np.array([3, 5, 3]), np.array([3])) == Pieces(3, 2)
