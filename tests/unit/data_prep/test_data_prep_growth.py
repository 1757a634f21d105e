"""A folder that grows from another is what a build of all at once writes, and the old one stays what it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from prep_samples import contents, sentences

from data_prep import conversions, growth, phases
from data_prep.build import Options, build, show_estimate
from data_prep.catalog import Corpus
from data_prep.exclusion.changes import changes
from data_prep.exclusion.entries import Entries
from data_prep.near_duplicates import Near
from data_prep.verify import verify
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import Manifest

SMALL = Options(chunk_bytes=6000, allow_unknown=True)
GERMAN, ENGLISH, FRENCH = (sentences(200, seed) for seed in (11, 12, 13))
TOP = "exclude: [test.en]"
ENTRIES = {
    "en": "{name: en, format: cc100, path: en.txt, language: en, filters: {copies: 1}}",
    "sw": "{name: sw, format: cc100, path: sw.txt, language: sw, deduplicate: true}",
    "web": "{name: web, format: documents, path: web.txt, language: sw, deduplicate: across}",
    "news": "{name: news, format: documents, path: news.txt, language: sw, deduplicate: across}",
    "de-en": "{name: de-en, format: tsv, path: de-en.tsv, languages: [de, en], held_out: 0.2}",
    "en-fr": "{name: en-fr, format: tsv, path: en-fr.tsv, languages: [fr, en], held_out: 0.1}",
    "blog": "{name: blog, format: documents, path: blog.txt, language: am, deduplicate: true, deduplicate_near: true}",
    "forum": "{name: forum, format: documents, path: forum.txt, language: am, deduplicate_near: true}",
}
"""Pairs hold out English sentences that `en` has; `web` and `news` have lines in common, and `sw` has nothing of others;
`forum` has lines that are nearly those of `blog`, and both have some that are nearly their own."""


def likes(texts: range, *ends: str) -> list[str]:
    """Each text once with each end: those of one text share nine tenths of their runs of words."""
    words = {text: " ".join(sentences(6, 100 + text)) for text in texts}
    return [f"{words[text]} {end}" for end in ends for text in texts]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth") / "raw"
    folder.mkdir()
    plain = {
        "en.txt": ENGLISH[:150] + sentences(50, 14) * 2,
        "sw.txt": sentences(100, 15) * 2,
        "web.txt": sentences(150, 16),
        "news.txt": sentences(150, 16)[100:] + sentences(100, 17),
        "test.en": ENGLISH[50:60],
        "test.sw": sentences(100, 15)[:5],
        "blog.txt": likes(range(60), "one", "two") + likes(range(5), "one"),
        "forum.txt": likes(range(40, 90), "three", "four"),
    }
    for name, lines in plain.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    for name, sides in {"de-en.tsv": (GERMAN, ENGLISH), "en-fr.tsv": (FRENCH, ENGLISH[100:] + GERMAN[:100])}.items():
        (folder / name).write_text("".join(f"{a}\t{b}\n" for a, b in zip(*sides, strict=True)))
    return folder


@pytest.fixture(scope="module")
def at_once(raw: Path, tokenizer: Path) -> Callable[..., Path]:
    """A build of these corpora, all at once; to be left as it is."""

    def make(*names: str, top: str = TOP) -> Path:
        folder = raw.parent / f"{top} {' '.join(names)}"
        if not folder.exists():
            build(catalog(raw, *names, top=top), tokenizer, folder, SMALL)
        return folder

    return make


def catalog(raw: Path, *names: str, top: str = TOP) -> Path:
    path = raw / "catalog.yaml"
    path.write_text(f"{top}\ncorpora:\n" + "".join(f"  - {ENTRIES[name]}\n" for name in names))
    return path


def copied(folder: Path, to: Path) -> Path:
    """A folder that a test may change."""
    return Path(shutil.copytree(folder, to))


def growing(old: Path) -> Options:
    return replace(SMALL, grow_from=old)


def converted(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the corpora that are converted from here on, in this process."""
    real, found = conversions.convert, set()

    def noting(task: conversions.Task) -> conversions.Done:
        found.add(task.corpus.name)
        return real(task)

    monkeypatch.setattr(conversions, "convert", noting)
    return found


ALL = tuple(ENTRIES)
CHANGES = {
    # name: (old corpora, new corpora, the corpora that are built)
    "text is added at the end": (("en", "de-en"), ("en", "de-en", "sw"), {"sw"}),
    "text is added in front": (("en", "de-en"), ("sw", "en", "de-en"), {"sw"}),
    "text is removed": (("sw", "en", "de-en"), ("en", "de-en"), set()),
    "the order changes": (("sw", "en", "de-en"), ("de-en", "en", "sw"), set()),
    "pairs that hold out lines of another corpus": (("en", "sw"), ("en", "sw", "de-en"), {"en", "de-en"}),
    "pairs in front of pairs": (("sw", "de-en"), ("en-fr", "sw", "de-en"), {"en-fr", "de-en"}),
    "pairs are removed": (("en", "sw", "de-en"), ("en", "sw"), {"en"}),
    "one more of a group": (("web", "en"), ("web", "en", "news"), {"web", "news"}),
    "the first of a group goes": (("web", "en", "news"), ("en", "news"), {"news"}),
    "the last of a group goes": (("web", "en", "news"), ("web", "en"), set()),
    "a group as it was": (("web", "news"), ("en", "web", "news"), {"en"}),
    "one more that is compared by likeness": (("blog", "en"), ("blog", "en", "forum"), {"blog", "forum"}),
    "one more in front": (("forum", "en"), ("blog", "forum", "en"), {"blog", "forum"}),
    "the first of those goes": (("blog", "en", "forum"), ("en", "forum"), {"forum"}),
    "the last of those goes": (("blog", "en", "forum"), ("en", "blog"), set()),
    "their order changes": (("blog", "forum"), ("forum", "blog"), {"blog", "forum"}),
    "those as they were": (("blog", "forum", "sw"), ("blog", "en", "forum"), {"en"}),
}


Grown = Callable[..., tuple[Path, Path, set[str]]]


@pytest.fixture
def grown(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Grown:
    """Names of corpora before and now -> the folder of before, one that is grown from it, and the corpora that were built.

    The grown folder has the bytes of a build at once, and the other is as it was.
    """

    def grow(
        before: tuple[str, ...], now: tuple[str, ...], tops: tuple[str, str] = (TOP, TOP)
    ) -> tuple[Path, Path, set[str]]:
        old, whole = at_once(*before, top=tops[0]), at_once(*now, top=tops[1])
        done, new = converted(monkeypatch), tmp_path / "new"
        untouched = contents(old)
        build(catalog(raw, *now, top=tops[1]), tokenizer, new, growing(old))
        assert contents(new) == contents(whole)
        assert contents(old) == untouched
        return old, new, done

    return grow


@pytest.mark.parametrize("change", CHANGES)
def test_a_grown_folder_has_the_bytes_of_a_build_at_once_and_only_what_is_affected_is_built(
    change: str, grown: Grown
) -> None:
    before, now, expected = CHANGES[change]
    old, new, done = grown(before, now)
    assert done == expected
    shards = [path for path in (new / "shards").rglob("*.arrow") if path.parent.name not in expected]
    assert all(path.samefile(old / path.relative_to(new)) for path in shards)
    assert verify(new) == []


TOPS = {
    "a set more": ("exclude: [test.en]", "exclude: [test.en, test.sw]", {"sw"}),
    "a set less": ("exclude: [test.en, test.sw]", "exclude: [test.sw]", {"en", "de-en"}),
    "no set any more": ("exclude: [test.sw]", "", {"sw"}),
    "held-out text may stand elsewhere": ("", "allow_held_out: true", {"en"}),
    "held-out text no longer may": ("allow_held_out: true", "", {"en"}),
}


@pytest.mark.parametrize("change", TOPS)
def test_corpora_are_built_again_that_other_evaluation_sets_or_waivers_concern(change: str, grown: Grown) -> None:
    before, now, expected = TOPS[change]
    names = ("en", "sw", "de-en")
    *_, done = grown(names, names, (before, now))
    assert done == expected


def test_of_what_is_compared_by_likeness_rows_go_in_each_of_these_builds(at_once: Callable[..., Path]) -> None:
    """Else the changes above would show nothing."""
    pytest.importorskip("rensa")
    near, elsewhere = "near duplicate of an earlier line", "near duplicate of a line of an earlier corpus"
    rejected = {entry.name: entry.rejected for entry in Manifest.read(at_once("blog", "en", "forum")).corpora}
    assert rejected["blog"] == {near: 60, "duplicate of an earlier line": 5}
    assert rejected["forum"] == {near: 30, elsewhere: 40}
    (alone,) = (one for one in Manifest.read(at_once("en", "forum")).corpora if one.name == "forum")
    assert alone.rejected == {near: 50}


def test_growth_on_two_ranks_and_after_stops_in_each_pass_gives_the_same_bytes(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, whole = at_once("en", "sw", "web"), at_once(*ALL)
    untouched = contents(old)
    path, new = catalog(raw, *ALL), tmp_path / "new"
    build(path, tokenizer, tmp_path / "two", growing(old), Ranks(2))
    assert contents(tmp_path / "two") == contents(whole)

    def stopping(module: object, work: str, times: int) -> None:
        original = getattr(module, work)
        calls: Iterator[int] = iter(range(times))

        def some(*arguments: object) -> object:
            next(calls)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, work, some)
            with pytest.raises(StopIteration):
                build(path, tokenizer, new, growing(old))
        assert not (new / "manifest.json").exists()
        assert contents(old) == untouched

    stopping(conversions, "note_held_out", 3)
    stopping(conversions, "note_concerned", 2)
    assert not (new / "work/.kept.json").exists()
    stopping(growth, "_linked", 0)
    assert (new / "work/.kept.json").exists()
    stopping(conversions, "convert", 2)
    stopping(phases, "remove_repeated", 1)
    with pytest.raises(InputError, match=r"another plan: grown_from was \"[0-9a-f]+\.\.\. and is now null"):
        build(path, tokenizer, new, SMALL)
    build(path, tokenizer, new, growing(old))
    assert contents(new) == contents(whole)
    build(path, tokenizer, new, growing(old))  # a requeued job
    build(path, tokenizer, new, SMALL)
    assert contents(new) == contents(whole)


def test_folders_that_grew_grow_again_and_shrink_back(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    steps = [("sw",), ("sw", "de-en"), ("sw", "de-en", "en-fr", "en"), ("sw", "en-fr"), ("sw",)]
    last = at_once(*steps[0])
    for number, names in enumerate(steps[1:]):
        build(catalog(raw, *names), tokenizer, tmp_path / str(number), growing(last))
        last = tmp_path / str(number)
        assert contents(last) == contents(at_once(*names))


def test_pairs_that_the_old_folder_has_noted_are_not_read_again(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, whole = at_once("de-en"), at_once("de-en", "en-fr")
    real, noted = conversions.note_held_out, set()
    monkeypatch.setattr(conversions, "note_held_out", lambda task: (noted.add(task.corpus.name), real(task))[1])
    build(catalog(raw, "de-en", "en-fr"), tokenizer, tmp_path / "new", growing(old))
    assert noted == {"en-fr"}
    assert contents(tmp_path / "new") == contents(whole)


def test_what_becomes_of_each_corpus_is_told_with_sizes_and_an_estimate_writes_nothing(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = copied(at_once("en", "web", "de-en"), tmp_path / "old")
    (old / "shards/en/train-00000.arrow").unlink()
    path = catalog(raw, "en", "de-en", "sw")
    path.write_text(path.read_text().replace("held_out: 0.2", "held_out: 0.3"))
    capsys.readouterr()
    show_estimate(path, tokenizer, tmp_path / "new", growing(old), Ranks(1))
    told = capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert "0 corpora kept (0 B of shards), 1 added, 2 built again, 1 removed\n" in told
    size = (raw / "sw.txt").stat().st_size / 1024
    assert f"added: sw ({size:.1f} KiB of files): it is new\n" in told
    assert "of shards there): shards/en/train-00000.arrow is missing or of another size\n" in told
    assert "of shards there): held_out was 0.2 and is now 0.3\n" in told
    assert "  removed: web (" in told
    assert "\nweb " not in told


def test_a_folder_of_other_settings_is_refused_in_one_line_before_anything_is_written(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    old = copied(at_once("en", "sw"), tmp_path / "old")
    path, new = catalog(raw, "en", "sw"), tmp_path / "new"
    with pytest.raises(InputError, match=r"nothing of it can be kept, since chunk_bytes was 6000 and is now 4000; give"):
        build(path, tokenizer, new, replace(growing(old), chunk_bytes=4000))
    plan = json.loads((old / ".plan.json").read_text())
    plan["versions"]["numpy"] = "1.0"
    (old / ".plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"since versions\.numpy was \"1\.0\" and is now"):
        build(path, tokenizer, new, growing(old))
    (old / ".plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"\.plan\.json or report\.json is damaged .* build anew, without --grow_from"):
        build(path, tokenizer, new, growing(old))
    for out in (old, old / "new"):
        with pytest.raises(InputError, match=r"a finished folder is never changed.* give --out a new folder"):
            build(path, tokenizer, out, replace(growing(old), overwrite=True))
    (old / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest.json: missing, so this data folder is not finished"):
        build(path, tokenizer, new, growing(old))
    assert not new.exists()


def test_a_report_that_says_other_than_the_manifest_is_not_believed(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = at_once("en", "sw")
    old = copied(whole, tmp_path / "old")
    report = json.loads((old / "report.json").read_text())
    report["corpora"][0]["lines_read"] += 1
    (old / "report.json").write_text(json.dumps(report))
    done = converted(monkeypatch)
    build(catalog(raw, "en", "sw"), tokenizer, tmp_path / "new", growing(old))
    assert done == {"en"}
    assert contents(tmp_path / "new") == contents(whole)


def test_shards_behind_links_are_not_taken(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = at_once("en", "sw")
    old = copied(whole, tmp_path / "old")
    shard = old / "shards/en/train-00000.arrow"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    done = converted(monkeypatch)
    build(catalog(raw, "en", "sw"), tokenizer, tmp_path / "new", growing(old))
    assert done == {"en"}
    assert contents(tmp_path / "new") == contents(whole)


def test_an_old_folder_that_changes_meanwhile_is_noticed(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = copied(at_once("en", "sw"), tmp_path / "old")
    path, new = catalog(raw, "en", "sw", "web"), tmp_path / "new"
    real = growth._linked

    def changing(source: Path, target: Path, num_bytes: int) -> None:
        real(source, target, num_bytes)
        (old / "manifest.json").unlink(missing_ok=True)

    monkeypatch.setattr(growth, "_linked", changing)
    with pytest.raises(InputError, match=r"somebody builds there; wait for that, then give the same command again"):
        build(path, tokenizer, new, growing(old))
    assert not (new / "manifest.json").exists()


def test_where_there_are_no_hard_links_shards_are_copied(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    old, whole = at_once("en", "de-en"), at_once("en", "sw", "de-en")
    monkeypatch.setattr(os, "link", refusing)
    build(catalog(raw, "en", "sw", "de-en"), tokenizer, tmp_path / "new", growing(old))
    assert contents(tmp_path / "new") == contents(whole)
    assert (tmp_path / "new/shards/en/train-00000.arrow").stat().st_nlink == 1


def test_a_corpus_that_was_left_out_is_tried_again(
    at_once: Callable[..., Path], raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    whole = at_once("en", "sw")
    good = (raw / "sw.txt").read_bytes()
    (raw / "sw.txt").write_bytes(b"")
    build(catalog(raw, "en", "sw"), tokenizer, tmp_path / "old", replace(SMALL, on_error="quarantine"))
    (raw / "sw.txt").write_bytes(good)
    build(catalog(raw, "en", "sw"), tokenizer, tmp_path / "new", growing(tmp_path / "old"))
    assert contents(tmp_path / "new") == contents(whole)


def test_corpora_that_are_compared_by_copies_or_likeness_are_built_together() -> None:
    def of(name: str, deduplicate: bool | str, near: Near | None, language: str = "sw") -> Corpus:
        return Corpus(name, "documents", (language,), (), deduplicate=deduplicate, deduplicate_near=near)

    corpora = [of("a", "across", None), of("b", "across", Near()), of("c", True, Near()), of("d", True, Near(words=3))]
    corpora += [of("e", False, Near(), "am"), of("f", False, None)]
    compared = ((one.name, one.languages, one.deduplicate, one.deduplicate_near) for one in corpora)
    old = growth._groups((*told, near and Near(**asdict(near))) for *told, near in compared)  # as from a plan
    assert sorted(names for (near, _), names in old.items() if near) == [("b", "c"), ("d",), ("e",)]
    assert sorted(names for (near, _), names in old.items() if not near) == [("a", "b"), ("c",), ("d",)]
    assert growth.closed(corpora, old, {}) == {}
    assert set(growth.closed(corpora, old, {"c": "changed"})) == {"a", "b", "c"}
    assert set(growth.closed(corpora, old, {"e": "changed"})) == {"e"}
    assert set(growth.closed(corpora[:2], old, {})) == set()
    assert set(growth.closed(corpora[1:], old, {})) == {"b", "c"}


def entries(**hashes: tuple[int, ...]) -> Entries:
    source = [index for index, of in enumerate(hashes.values()) for _ in of]
    numbers = [number for of in hashes.values() for number in of]
    letters = np.zeros(len(numbers), np.uint8)
    return Entries(np.array(numbers, np.uint64), letters, np.array(source, np.int32), tuple(hashes))


def test_entries_of_another_source_or_of_one_side_alone_are_changes() -> None:
    found = changes(entries(a=(1, 2), b=(3,)), entries(b=(2, 3), c=(4,)))
    assert sorted(zip(found.hashes.tolist(), [found.sources[i] for i in found.source], strict=True)) == [
        (1, "a"),
        (2, "a"),
        (2, "b"),
        (4, "c"),
    ]
    assert not len(changes(entries(a=(1,)), entries(b=(), a=(1,))).hashes)
    assert not len(changes(entries(), entries()).hashes)
