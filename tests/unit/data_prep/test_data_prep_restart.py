"""A build goes on where it was, and touches nothing that is not its own."""

from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import pytest
from prep_samples import SMALL, contents

from data_prep import conversions, work_folder
from data_prep.build import Options, build
from data_prep.catalog import read_catalog
from data_prep.convert import Done
from data_prep.job import Job
from data_prep.team import Team
from data_prep.verify import verify
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import Manifest
from ernie_m.corpus.vocabulary import TOKENIZER_FILE

NOT_OURS = (
    "notes.txt",
    "shards/notes.txt",
    "shards/mono.en/other.arrow",
    ".git/config",
    "work/exp1/results.json",
    "work/embeddings.npy",
    "work/mono.en/results.json",
    "work/mono.en/7.json",
    "shards/exp1/train-00001.arrow",
    "shards/mono.en/train-1.arrow",
    "ranks/rank-1.json",
    ".notes.tmp",
    "work/mono.en/.draft.1.tmp",
)
"""Files in a marked folder; the later ones of the kinds that a build writes, under names that it does not write."""


class Killed(BaseException):
    """What no `except Exception` catches."""


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the build die at a chunk; the names of those converted before."""
    real, converted = conversions.convert, []

    def dying(task: conversions.Task) -> Done:
        if len(converted) == count:
            raise Killed
        converted.append(f"{task.corpus.name} {task.index}")
        return real(task)

    monkeypatch.setattr(conversions, "convert", dying)
    return converted


def test_an_interrupted_build_goes_on_without_doing_anything_twice(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "interrupted"
    first = killed_after(4, monkeypatch)
    with pytest.raises(Killed):
        build(catalog, tokenizer, out, SMALL)
    monkeypatch.undo()
    with pytest.raises(InputError, match="not finished"):
        verify(out)
    (out / "shards/mono.en/.train-00007.arrow.123.tmp").write_bytes(b"killed here")
    (out / "work/mono.en/.00007.json.123.tmp").write_bytes(b"and here")
    second = killed_after(10**6, monkeypatch)
    build(catalog, tokenizer, out, SMALL)
    assert contents(out) == contents(built)
    assert len(first) == 4
    assert not set(first) & set(second)


def test_an_unfinished_build_of_another_plan_is_kept_and_the_difference_named(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "interrupted"
    killed_after(4, monkeypatch)
    with pytest.raises(Killed):
        build(catalog, tokenizer, out, SMALL)
    monkeypatch.undo()
    before = contents(out)
    with pytest.raises(InputError, match=r"another plan: chunk_bytes was 3000 and is now 3001; .*--overwrite"):
        build(catalog, tokenizer, out, Options(chunk_bytes=3001))
    path = catalog.parent / "en.txt.xz"
    content = path.read_bytes()
    path.write_bytes(lzma.compress(b"another text\n" * 100))
    with pytest.raises(InputError, match=r"corpora\[0\]\.files\[0\]\.bytes was"):
        build(catalog, tokenizer, out, SMALL)
    path.write_bytes(content)
    catalog.write_text(catalog.read_text().replace("held_out: 0.2", "held_out: 0.1"))
    with pytest.raises(InputError, match=r"corpora\[1\]\.held_out was 0\.2 and is now 0\.1"):
        build(catalog, tokenizer, out, SMALL)
    assert contents(out) == before
    catalog.write_text(catalog.read_text().replace("held_out: 0.1", "held_out: 0.2"))
    build(catalog, tokenizer, out, dataclasses.replace(SMALL, overwrite=True))
    assert contents(out) == contents(built)


def test_a_finished_build_is_replaced_only_when_told(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    with pytest.raises(InputError, match="--overwrite"):
        build(catalog, tokenizer, built)
    assert contents(built) == before
    build(catalog, tokenizer, built, Options(overwrite=True))
    assert "shards/t.de-en/train-00001.arrow" not in contents(built)
    assert verify(built) == []


def test_wrong_input_is_refused_before_a_finished_build_is_touched(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    (catalog.parent / "pairs.tsv.gz").unlink()
    with pytest.raises(InputError, match="no such file"):
        build(catalog, tokenizer, built, Options(overwrite=True))
    with pytest.raises(InputError, match="lies in the output folder"):
        build(catalog, built / TOKENIZER_FILE, built, Options(overwrite=True))
    assert contents(built) == before


@pytest.mark.parametrize("name", NOT_OURS)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_somebody_elses_files_is_refused(
    built: Path, catalog: Path, tokenizer: Path, name: str, finished: bool
) -> None:
    (built / name).parent.mkdir(parents=True, exist_ok=True)
    (built / name).write_text("mine")
    if not finished:
        (built / "manifest.json").unlink()
    with pytest.raises(InputError, match="not of a build of ours"):
        build(catalog, tokenizer, built, Options(overwrite=True))
    assert (built / name).read_text() == "mine"


def test_teams_agree_on_who_reads_a_stream_whenever_they_look(catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    job = Job(tuple(read_catalog(catalog)), tokenizer, tmp_path, 3000, False)

    def owned() -> list[set[str]]:
        return [conversions.Conversions(Team(number, 2, 0, None), job).own_streams for number in range(2)]

    before = owned()
    assert sorted(name for names in before for name in names) == ["mono.en", "p.de-fr", "t.de-en"]
    assert all(before)
    for corpus in job.corpora:
        work_folder.mark_end(tmp_path, corpus.name, {"chunks": 1})
        assert owned() == before


def test_a_finished_build_given_again_is_done(
    built: Path, catalog: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(built)
    converted = killed_after(10**6, monkeypatch)
    assert build(catalog, tokenizer, built, SMALL) == Manifest.read(built)
    assert "already built from the same input, tokenizer and options; nothing to do" in capsys.readouterr().out
    assert contents(built) == before
    assert converted == []


def test_a_finished_build_of_another_plan_says_what_differs(built: Path, catalog: Path, tokenizer: Path) -> None:
    with pytest.raises(InputError, match=r"of another plan: chunk_bytes was 3000 and is now 3001; choose another --out"):
        build(catalog, tokenizer, built, Options(chunk_bytes=3001))
    (built / ".plan.json").unlink()
    with pytest.raises(InputError, match=r"kept no plan; choose another --out or add --overwrite"):
        build(catalog, tokenizer, built, SMALL)


def test_a_lost_shard_is_built_again_alone(
    built: Path, catalog: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(built)
    lost = ["shards/t.de-en/train-00001.arrow", "shards/mono.en/train-00000.arrow", "shards/t.de-en/held_out-00002.arrow"]
    for name in lost[:2]:
        (built / name).unlink()
    (built / lost[2]).write_bytes(b"cut")
    kept = {path: path.stat().st_mtime_ns for path in built.glob("shards/p.de-fr/*")}
    build(catalog, tokenizer, built, SMALL)
    assert "3 shards that had been lost were built again" in capsys.readouterr().out
    assert contents(built) == before
    assert verify(built) == []
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("content", [None, b"altered"])
def test_a_lost_or_altered_tokenizer_is_copied_again(
    content: bytes | None, built: Path, catalog: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(built)
    (path,) = built.glob("*.model")
    path.unlink() if content is None else path.write_bytes(content)
    build(catalog, tokenizer, built, SMALL)
    assert "already built from the same input, tokenizer and options; its tokenizer was copied" in capsys.readouterr().out
    assert contents(built) == before


def test_a_lost_shard_of_a_corpus_without_repeats_is_not_guessed(catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    catalog.write_text(catalog.read_text().replace("language: en}", "language: en, deduplicate: true}"))
    build(catalog, tokenizer, tmp_path / "out", SMALL)
    (tmp_path / "out/shards/mono.en/train-00000.arrow").unlink()
    with pytest.raises(InputError, match=r"train-00000\.arrow: missing .* which takes all of it; build .* --overwrite"):
        build(catalog, tokenizer, tmp_path / "out", SMALL)
