"""`align` gives a finished folder its links: the same bytes however it runs, from the aligner or from files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from prep_samples import SMALL, contents

from data_prep import team
from data_prep.build import build
from data_prep.ownership import refuse_foreign
from data_prep.verify import verify
from data_prep.word_alignment import folder as aligning
from data_prep.word_alignment import tasks
from data_prep.word_alignment.commands import align as align_command
from data_prep.word_alignment.commands import alignments as alignments_command
from data_prep.word_alignment.folder import Options, align, parallel_corpora
from data_prep.word_alignment.link_files import export
from data_prep.word_alignment.model import Settings
from data_prep.word_alignment.tasks import Method, sample
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder, Manifest, Shard
from ernie_m.corpus.words import begins_word, word_numbers
from tests.tokenizer_fixtures import sentences as real_sentences
from tests.tokenizer_fixtures import word_piece

METHOD = Method("intersection", Settings(), 1_000_000, 0)


def options(**changes: object) -> Options:
    settings = {"method": METHOD, "pharaoh": {}, "units": "words", "engine": "numpy", "overwrite": False}
    return Options(**{**settings, **changes})  # type: ignore[arg-type]


def pair_shards(data: Path) -> list[Shard]:
    opened = CorpusFolder(data)
    corpora = parallel_corpora(data, opened.manifest)
    return [opened.shard(place, 2) for corpus in corpora for place in corpus.shards.places.tolist()]


def items_of(shard: Shard) -> list[list[tuple[int, int]]]:
    items, starts = shard.items("links", 0, shard.entry.rows)
    return [list(map(tuple, items[a:b].tolist())) for a, b in pairwise(starts)]


def test_every_shard_of_pairs_gets_links_and_keeps_its_bytes(built: Path) -> None:
    before = contents(built)
    align(built, options(), Ranks(1))
    assert verify(built) == []
    after = contents(built)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    links = [row for shard in pair_shards(built) for row in items_of(shard)]
    assert len(links) == sum(int(c.shards.rows.sum()) for c in parallel_corpora(built, Manifest.read(built)))
    assert sum(map(len, links)) > len(links)
    opened = CorpusFolder(built)
    for stream in (*opened.parallel(), *opened.parallel(HELD_OUT)):
        opened.require_column("links", stream)
    assert not (built / "work").exists()


@pytest.mark.parametrize("team_size", [1, 8])
def test_any_number_of_ranks_writes_the_same_bytes(
    catalog: Path, tokenizer: Path, tmp_path: Path, team_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two teams of one rank, then one team of two."""
    for name, ranks in (("one", 1), ("many", 2)):
        build(catalog, tokenizer, tmp_path / name, SMALL)
        monkeypatch.setattr(team, "TEAM_SIZE", team_size)
        align(tmp_path / name, options(), Ranks(ranks))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_a_job_that_stopped_anywhere_goes_on_to_the_same_bytes(
    catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(catalog, tokenizer, tmp_path / "whole", SMALL)
    align(tmp_path / "whole", options(), Ranks(1))
    expected, data = contents(tmp_path / "whole"), tmp_path / "data"
    build(catalog, tokenizer, data, SMALL)
    made: list[Path] = []

    def stopping(module: object, name: str, after: int) -> Callable[..., object]:
        original, calls = getattr(module, name), []

        def stopped(*arguments: object) -> object:
            calls.append(name)
            if len(calls) > after:
                raise KeyboardInterrupt
            made.append(Path(str(arguments[0])))
            return original(*arguments)

        return stopped

    for module, name, after in (
        (tasks.model_files, "save", 0),
        (tasks.model_files, "save", 1),
        (tasks, "write_companion", 0),
        (tasks, "write_companion", 2),
        (tasks, "write_companion", 3),
        (aligning, "_told", 0),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping(module, name, after))
            with pytest.raises(KeyboardInterrupt):
                align(data, options(), Ranks(1))
        assert Manifest.read(data).columns == {}, "not finished"
        assert verify(data) == []
    refuse_foreign(data)  # what it left is known to be a build's own
    align(data, options(), Ranks(1))
    assert contents(data) == expected
    companions = [path for path in made if path.suffix == ".arrow"]
    assert len(companions) == len({*companions}) == 5, "nothing is written twice"


def has_model(folder: Path) -> bool:
    """Whether an alignment has begun; while a job removes a folder, nobody can look through it."""
    try:
        return any(folder.rglob("model.json"))
    except FileNotFoundError:
        return False


def test_a_killed_job_goes_on_to_the_same_bytes(catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        build(catalog, tokenizer, tmp_path / name, SMALL)
    align(tmp_path / "whole", options(), Ranks(1))
    command = [sys.executable, "-m", "data_prep", "align", "--data", str(tmp_path / "killed"), "--engine", "numpy"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not has_model(tmp_path / "killed") and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if not Manifest.read(tmp_path / "killed").columns:
        align(tmp_path / "killed", options(), Ranks(1))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_other_options_need_overwrite_and_then_leave_no_trace_of_the_first(built: Path, tmp_path: Path) -> None:
    align(built, options(), Ranks(1))
    first = contents(built)
    union = options(method=Method("union", Settings(), 1_000_000, 0))
    with pytest.raises(InputError, match="has links already"):
        align(built, union, Ranks(1))
    assert contents(built) == first
    for wrong in ({"engine": "fast"}, {"units": "letters"}, {"method": Method("all", Settings(), 1_000_000, 0)}):
        with pytest.raises(InputError, match="expected"):
            align(built, options(**wrong, overwrite=True), Ranks(1))
        assert contents(built) == first, "what is refused takes no links away"
    align(built, options(method=union.method, overwrite=True), Ranks(1))
    second = contents(built)
    for name in (name for name in first if name.endswith(".links.arrow")):
        assert len(second[name]) > len(first[name]), "a union holds more"
    align(built, options(overwrite=True), Ranks(1))
    assert contents(built) == first


def test_an_unfinished_alignment_of_another_plan_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "write_companion", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            align(built, options(), Ranks(1))
    other = Method("intersection", Settings(iterations=3), 1_000_000, 0)
    with pytest.raises(InputError, match=r"another plan: method.settings.iterations was 5 and is now 3"):
        align(built, options(method=other), Ranks(1))
    align(built, options(method=other, overwrite=True), Ranks(1))
    assert verify(built) == []


def test_the_sample_is_a_function_of_the_seed_and_never_too_large(built: Path) -> None:
    stream = CorpusFolder(built).parallel()[0]
    assert stream.num_rows > 150
    found = {seed: sample(stream, Method("union", Settings(), 40, seed)) for seed in (0, 1)}
    again = sample(stream, Method("union", Settings(), 40, 0))
    assert np.array_equal(found[0][0].values, again[0].values)
    assert not np.array_equal(found[0][0].values, found[1][0].values)
    for source, target in found.values():
        assert 20 < len(source.offsets) - 1 == len(target.offsets) - 1 <= 40
    whole = sample(stream, METHOD)
    assert np.array_equal(whole[0].values, np.concatenate([shard.values[0] for shard in stream.shards]))


def test_a_sample_is_held_to_the_memory_there_is(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TRAIN_CELLS", 5000)
    source, target = sample(CorpusFolder(built).parallel()[0], METHOD)
    assert 2000 < int((np.diff(source.offsets) * np.diff(target.offsets)).sum()) <= 5000
    monkeypatch.setattr(tasks, "TRAIN_TOKENS", 1)
    with pytest.raises(InputError, match="de-fr: no pair of at most 1 tokens a side"):
        sample(CorpusFolder(built).parallel()[1], METHOD)


def exported(data: Path, to: Path, units: str) -> dict[str, list[tuple[list[str], list[str]]]]:
    manifest = Manifest.read(data)
    paths = export(data, parallel_corpora(data, manifest), data / manifest.tokenizer_file, to, units)
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in paths}
    return {
        name: [(source.split(), target.split()) for source, target in (line.split(" ||| ") for line in content)]
        for name, content in lines.items()
    }


@pytest.mark.parametrize("units", ["tokens", "words"])
def test_links_of_another_aligner_are_taken_line_by_line(built: Path, tmp_path: Path, units: str) -> None:
    text = exported(built, tmp_path / "text", units)
    assert sorted(text) == ["p.de-fr", "t.de-en"]
    rng, files = np.random.default_rng(0), {}
    given: dict[str, list[list[tuple[int, int]]]] = {}
    for name, pairs in text.items():
        given[name] = [
            [(int(rng.integers(len(a))), int(rng.integers(len(b)))) for _ in range(int(rng.integers(0, 4)))]
            for a, b in pairs
        ]
        files[name] = tmp_path / f"{name}.links"
        files[name].write_text("".join(" ".join(f"{i}-{j}" for i, j in row) + "\n" for row in given[name]))
    align(built, options(pharaoh=files, units=units), Ranks(1))
    assert verify(built) == []
    begins = begins_word(open_vocabulary(built / "sentencepiece.bpe.model"))
    for name, rows in given.items():
        shards = [shard for shard in pair_shards(built) if f"/{name}/" in str(shard.path)]
        found = [row for shard in shards for row in items_of(shard)]
        assert len(found) == len(rows) >= 50
        ids = [tuple(v[a:b] for v, (a, b) in zip(s.values, r, strict=True)) for s in shards for r in rows_of(s)]
        for links, items, (source, target) in zip(rows, found, ids, strict=True):
            if units == "tokens":
                assert items == sorted({*links})
                continue
            words = word_numbers(source, begins).tolist(), word_numbers(target, begins).tolist()
            spread = {(i, j) for i, a in enumerate(words[0]) for j, b in enumerate(words[1]) if (a, b) in links}
            assert items == sorted(spread)


def rows_of(shard: Shard) -> list[list[tuple[int, int]]]:
    """Of each row, where its tokens lie in each column."""
    borders = shard.borders(0, shard.entry.rows).tolist()
    return [list(zip(a, b, strict=True)) for a, b in pairwise(borders)]


def test_an_export_replaces_no_file_unless_told_and_no_option_is_ignored(built: Path, tmp_path: Path) -> None:
    command = partial(align_command, None, data=str(built), export=str(tmp_path))
    command()
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"--export .*t\.de-en\.txt: exists and stays as it is"):
        command()
    assert contents(tmp_path) == before
    command(units="tokens", overwrite=True)
    assert contents(tmp_path) != before
    with pytest.raises(InputError, match="--units letters: expected words, tokens"):
        command(units="letters", overwrite=True)
    with pytest.raises(InputError, match=r"--export \S+: lies in --data \S+, which is read; give a folder outside of it"):
        command(export=str(built / "text"))
    with pytest.raises(InputError, match="align: --units tokens: expected with --pharaoh or --export alone"):
        command(units="tokens", export=None)
    with pytest.raises(InputError, match="expected one of --export, for another aligner, and --pharaoh"):
        command(pharaoh="t.de-en=links.txt", overwrite=True)
    (tmp_path / "gold").write_text("0-0\n")
    with pytest.raises(InputError, match="--links_first_index 1: expected with --links alone"):
        alignments_command(None, gold=str(tmp_path / "gold"), data=str(built), corpus="t.de-en", links_first_index=1)


def test_exported_words_are_those_of_the_text(catalog: Path, built: Path, tmp_path: Path) -> None:
    pairs = [(" ".join(a), " ".join(b)) for a, b in exported(built, tmp_path / "text", "words")["p.de-fr"]]
    assert all(b == f"{a} ▁<unk>a" for a, b in pairs), "ja, of which the tokenizer does not know j"
    assert len(pairs) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"t.de-en=.*links: 400 lines, the corpus has 401 rows"),
        (lambda lines: [*lines, ""], r"402 lines, the corpus has 401 rows"),
        (lambda lines: [*lines[:7], "0-0 99-0", *lines[8:]], r"links:8: link 99-0, in sentences of \d+ and \d+ words"),
        (lambda lines: [*lines[:7], "0:0", *lines[8:]], r"links:8: '0:0' is no link, expected 0-0 1-2"),
        (lambda lines: [*lines[:7], "0-0 -1-2", *lines[8:]], r"links:8: '-1-2' is no link"),
    ],
)
def test_a_faulty_file_of_links_is_named_with_its_line(
    built: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    path = tmp_path / "links"
    rows = sum(int(c.shards.rows.sum()) for c in Manifest.read(built).corpora if c.name == "t.de-en")
    assert rows == 401
    path.write_text("".join(f"{line}\n" for line in change(["0-0"] * rows)))
    with pytest.raises(InputError, match=message) as caught:
        align(built, options(pharaoh={"t.de-en": path}), Ranks(1))
    assert "\n" not in str(caught.value)
    assert Manifest.read(built).columns == {}


def test_what_cannot_be_aligned_is_refused_in_a_line(built: Path, catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"pharaoh": {"t.de-en": tmp_path / "none"}}, "--pharaoh t.de-en=.*none: no such file"),
        ({"pharaoh": {"mono.en": tmp_path}}, "expected a corpus of pairs of .*: t.de-en, p.de-fr"),
        ({"units": "letters"}, "--units letters: expected words, tokens"),
        ({"method": Method("both", Settings(), 1, 0)}, "--symmetrization both: expected intersection"),
    ):
        with pytest.raises(InputError, match=message):
            align(built, options(**changes), Ranks(1))
    catalog.write_text("corpora:\n  - {name: mono.en, format: cc100, path: en.txt.xz, language: en}\n")
    build(catalog, tokenizer, tmp_path / "mono", SMALL)
    with pytest.raises(InputError, match="has no pairs, so there is nothing to align"):
        align(tmp_path / "mono", options(), Ranks(1))


def test_words_of_word_piece_ids_are_refused_and_its_tokens_are_aligned(catalog: Path, tmp_path: Path) -> None:
    tokenizer = word_piece(real_sentences("de") + real_sentences("en"), tmp_path / "bert")
    data = tmp_path / "data"
    build(catalog, tokenizer, data, SMALL.__class__(chunk_bytes=3000, allow_unknown=True))
    with pytest.raises(InputError, match=r"WordPiece\) do not say where white space was.*--units tokens"):
        exported(data, tmp_path / "text", "words")
    (tmp_path / "links").write_text("0-0\n" * 401)
    with pytest.raises(InputError, match="do not say where white space was"):
        align(data, options(pharaoh={"t.de-en": tmp_path / "links"}), Ranks(1))
    align(data, options(pharaoh={"t.de-en": tmp_path / "links"}, units="tokens"), Ranks(1))
    assert verify(data) == []
