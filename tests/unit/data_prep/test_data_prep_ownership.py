"""A build deletes and replaces under its own mark alone, and only what has the exact name of a file of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from prep_samples import SMALL, contents

from data_prep import conversions, ownership
from data_prep.build import Options, build
from data_prep.verify import verify
from ernie_m.base.console import InputError

OVERWRITE = dataclasses.replace(SMALL, overwrite=True)
PROJECTS: dict[str, dict[str, str]] = {
    "names that a build uses": {
        "work/exp1/results.json": "{}",
        "work/embeddings.npy": "mine",
        "report.txt": "mine",
        "ranks/rank-00000.json": "{}",
        "shards/en/train-00000.arrow": "mine",
    },
    "a lock of another program": {".lock": "4711\n", "report.json": "{}"},
    "nothing but another program's lock": {".lock": "4711\n"},
    "a training run": {".lock": f"process 7 on host; {'a' * 16}\n", "config.yaml": "seed: 1", "metrics.jsonl": "{}"},
    "a manifest of another format": {"manifest.json": '{"format": "a web app", "corpora": []}', "work/a.json": "{}"},
    "a manifest that is none": {"manifest.json": "[1, 2", "work/.plan.json": "[]"},
    "a plan of another project": {"work/.plan.json": '{"corpora": ["en"], "goal": "mine"}'},
    "a mark of another project": {".data_prep.json": '{"format": "other", "corpora": ["en"]}', "shards/a": "mine"},
    "a hidden file": {".gitignore": "*"},
}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("options", [SMALL, OVERWRITE], ids=["plain", "overwrite"])
@pytest.mark.parametrize("project", PROJECTS)
def test_a_folder_without_our_mark_stays_byte_for_byte(
    project: str, options: Options, catalog: Path, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "project"
    fill(out, PROJECTS[project])
    before = everything(out)
    with pytest.raises(InputError, match=r"project: not empty, and no build of ours made it .* --out") as caught:
        build(catalog, tokenizer, out, options)
    assert sorted(PROJECTS[project])[-1].partition("/")[0] in str(caught.value), "what is in it is named"
    assert everything(out) == before


def test_a_lock_that_is_a_link_is_not_written_through(built: Path, catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (built / ".lock").unlink(missing_ok=True)
    (built / ".lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        build(catalog, tokenizer, built, OVERWRITE)
    assert precious.read_text() == "precious"


def test_links_in_a_marked_folder_are_not_followed(built: Path, catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    """The corpus folder is a link to somewhere else: what is there is not ours to delete."""
    elsewhere = tmp_path / "elsewhere"
    (built / "shards/mono.en").rename(elsewhere)
    (built / "shards/mono.en").symlink_to(elsewhere)
    before = everything(elsewhere)
    with pytest.raises(InputError, match=r"shards/mono\.en, which is not of a build of ours"):
        build(catalog, tokenizer, built, OVERWRITE)
    assert everything(elsewhere) == before


def test_finished_folders_of_0_1_have_no_mark_and_are_ours(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    (built / ownership.MARK_FILE).unlink()
    (built / ownership.PLAN_FILE).unlink()
    with pytest.raises(InputError, match="already holds built data"):
        build(catalog, tokenizer, built, SMALL)
    build(catalog, tokenizer, built, OVERWRITE)
    assert contents(built) == before
    assert verify(built) == []


class Killed(BaseException):
    """What no `except Exception` catches."""


def killed(*arguments: object) -> None:
    raise Killed


def test_unfinished_folders_of_0_1_go_on(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "unfinished", 0
    real = conversions.convert

    def dying(task: conversions.Task) -> object:
        nonlocal count
        count += 1
        return real(task) if count < 5 else killed()

    monkeypatch.setattr(conversions, "convert", dying)
    with pytest.raises(Killed):
        build(catalog, tokenizer, out, SMALL)
    monkeypatch.undo()
    (out / ownership.MARK_FILE).unlink()
    done = {path: path.stat().st_mtime_ns for path in out.glob("work/*/0*.json")}
    assert done
    shards = {path: path.stat().st_mtime_ns for path in out.glob("shards/*/*")}
    build(catalog, tokenizer, out, SMALL)
    assert contents(out) == contents(built)
    assert all(path.stat().st_mtime_ns == changed for path, changed in shards.items()), "done again"


@pytest.mark.parametrize("deletions", range(0, 24, 4))
def test_a_build_killed_while_it_clears_its_folder_is_still_known_as_ours(
    deletions: int, built: Path, catalog: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, real, left = contents(built), Path.unlink, deletions
    (built / ownership.MARK_FILE).unlink()  # of 0.1, which is the harder case

    def dying(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if path.is_relative_to(built) and path.exists():
            if left == 0:
                raise Killed
            left -= 1
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(Killed):
        build(catalog, tokenizer, built, OVERWRITE)
    monkeypatch.undo()
    build(catalog, tokenizer, built, OVERWRITE)
    assert contents(built) == expected
    assert verify(built) == []


def test_what_a_user_puts_into_the_folder_of_a_running_build_outlives_it(
    catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", conversions.convert

    def with_a_visitor(task: conversions.Task) -> object:
        fill(out, {"work/notes.txt": "mine", "work/mono.en/results.json": "mine"})
        return real(task)

    monkeypatch.setattr(conversions, "convert", with_a_visitor)
    build(catalog, tokenizer, out, SMALL)
    assert {p.name for p in (out / "work").rglob("*") if p.is_file()} == {"notes.txt", "results.json"}
    assert verify(out) == []
