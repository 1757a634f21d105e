"""Near duplicates: the estimate against sets, the rows that go against all pairs of rows, and what a catalog may say."""

from __future__ import annotations

import random
import re
import resource
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from prep_samples import bare_ids, rows_of

from data_prep import near_duplicates, work_folder
from data_prep.build import Options, build
from data_prep.catalog import Corpus, read_catalog
from data_prep.deduplicate import Bucket, find_repeated
from data_prep.estimate import estimate
from data_prep.near_duplicates import BAND_KEY, Near, read_near, signatures
from data_prep.row_keys import RowKeys
from ernie_m.base.console import InputError

NEAR, ELSEWHERE = "near duplicate of an earlier line", "near duplicate of a line of an earlier corpus"
LETTERS = ("the", "small", "house", "is", "green", "and", "dog", "runs", "over", "a", "bridge", "nyumba", "ndogo")
ALONE = re.compile(r"[\u0e00-\u0e7f\u4e00-\u9fff]|[^\W_\u0e00-\u0e7f\u4e00-\u9fff]+")


def runs_of(text: str, words: int) -> set[str]:
    """The slow way, for Latin letters without marks, Thai and Han."""
    found = ALONE.findall(unicodedata.normalize("NFKC", text).casefold())
    return {"".join(found[at : at + words]) for at in range(max(1, len(found) - words + 1))} if found else set()


def share_of(texts: tuple[str, str], words: int) -> float:
    one, other = (runs_of(text, words) for text in texts)
    return len(one & other) / len(one | other)


def changed(words: list[str], places: int, draw: random.Random) -> list[str]:
    """The same with some words replaced."""
    found = [*words]
    for place in draw.sample(range(len(words)), places):
        found[place] = f"x{draw.randint(0, 9999)}"
    return found


def estimates(texts: list[str], near: Near) -> np.ndarray:
    """Of each two texts in a row: the share of equal minima, as their sketches say."""
    sketches = signatures([texts], near).sketches_RP
    equal = (sketches[::2] == sketches[1::2]).mean(axis=1)
    return (equal - 1 / 256) / (1 - 1 / 256)


@pytest.mark.parametrize("words", [1, 3, 5])
def test_the_estimate_is_the_share_of_common_runs(words: int) -> None:
    draw = random.Random(words)
    pairs = []
    for number in range(120):
        text = [f"{draw.choice(LETTERS)}{draw.randint(0, 300)}" for _ in range(draw.randint(5, 60))]
        pairs.append((" ".join(text), ", ".join(changed(text, number % 5, draw)).upper()))
        thai = [chr(draw.randint(0xE01, 0xE2E)) for _ in range(draw.randint(5, 60))]
        pairs.append(("".join(thai), " ".join(thai[: -(number % 4) or None]) + "猫" * (number % 2)))
    shares = np.array([share_of(pair, words) for pair in pairs])
    assert len(np.unique(shares)) > 50
    found = estimates([text for pair in pairs for text in pair], Near(words=words, permutations=1024, bands=8))
    assert np.abs(found - shares).max() < 5 * np.sqrt(1 / 4 / 1024)
    assert abs((found - shares).mean()) < 0.005


def test_case_punctuation_spaces_and_forms_do_not_count_and_a_text_without_letters_is_not_compared() -> None:
    texts = ["The house, is GREEN.", "the  house is\tgreen", "— …", "ｔｈｅ house is 'green'", "", "the house is red"]
    found = signatures([texts], Near())
    assert found.rows_R.tolist() == [0, 1, 3, 5]
    assert (found.keys_RB[1:3] == found.keys_RB[0]).all()
    assert not (found.keys_RB[3] == found.keys_RB[0]).any()
    assert len(set(found.keys_RB[0].tolist())) == Near().bands
    none = signatures([["…", "", "?!"]], Near())  # a stretch of such alone
    assert [part.shape for part in none] == [(0,), (0, Near().bands), (0, Near().permutations)]


def test_a_row_does_not_depend_on_the_rows_beside_it_and_a_pair_has_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(3)
    sides = [[" ".join(draw.choices(LETTERS, k=draw.randint(0, 30))) for _ in range(100)] for _ in range(2)]
    corpus = Corpus("p", "tsv", ("en", "fr"), (), deduplicate=True, deduplicate_near=Near())
    for name, step in (("whole", 100), ("parts", 9)):
        keys = RowKeys(corpus)
        for first in range(0, 100, step):
            keys.add([side[first : first + step] for side in sides])
        keys.write(tmp_path / name, "train", 0)
        monkeypatch.setattr(near_duplicates, "ROWS_AT_ONCE", 7)
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "work/p").iterdir()} for name in ("whole", "parts")
    ]
    assert written[0] == written[1]
    assert len(written[0]) == 3
    one, other = (signatures(both, Near()).keys_RB for both in (sides, sides[::-1]))
    assert not (one[:50] == other[:50]).all(axis=1).any(), "which side a text is on counts"


def test_minima_are_the_numbers_that_rensa_gives() -> None:
    pytest.importorskip("rensa")
    draw = np.random.default_rng(4)
    borders = np.concatenate([[0], np.cumsum(draw.integers(1, 40, 300))]).astype(np.uint64)
    found = near_duplicates.engine().digest_matrix_from_flat_token_hashes(
        draw.integers(0, 2**64, int(borders[-1]), np.uint64), borders, 40, 1
    )
    rows = found.to_rows()
    assert np.array_equal(near_duplicates._array(rows).reshape(-1, 40), np.array(rows, np.uint32))
    assert max(map(max, rows)) > 2**31, "no number is cut"
    assert near_duplicates._array([]).shape == (0,)


def family(draw: random.Random, size: int, low: int) -> list[str]:
    """A text and some that are like it by 0.9 and more; behind them one that is so by 0.5."""
    words = [f"w{draw.randint(low, low + 5000)}" for _ in range(30)]
    likes = [" ".join([*words, f"end{number}"]) + "." * draw.randint(0, 3) for number in range(size)]
    return [*likes, " ".join([*changed(words[:9], 9, draw), *words[9:]])]


def expected_of(corpora: dict[str, list[str]], group: list[str]) -> tuple[dict[str, list[str]], dict[str, tuple[int, int]]]:
    """By all pairs of rows: what stays of each corpus, and how many go for a row of it, and of another one."""
    earlier: list[tuple[str, set[str]]] = []
    stays, goes = {}, {}
    for name in group:
        kept, own, elsewhere = [], 0, 0
        for text in corpora[name]:
            runs = runs_of(text, 5)
            likes = {other for other, its in earlier if len(runs & its) >= 0.8 * len(runs | its)}
            earlier.append((name, runs))
            kept += [] if likes else [text]
            own, elsewhere = own + (likes == {name}), elsewhere + bool(likes - {name})
        stays[name], goes[name] = kept, (own, elsewhere)
    return stays, goes


@pytest.fixture
def catalog(tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    """Three corpora of one language, the second with a key a minimum, by which all are compared; one of another language."""
    draw = random.Random(5)
    families = [family(draw, 4, 0) for _ in range(80)]
    corpora = {name: [draw.choice(draw.choice(families)) for _ in range(70)] for name in ("b", "all", "a", "de")}
    for name, lines in corpora.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    (tmp_path / "c.yaml").write_text(
        "deduplicate_near: true\n"
        "corpora:\n"
        "  - {name: b, format: cc100, path: b.txt, language: en}\n"
        "  - {name: all, format: cc100, path: all.txt, language: en, deduplicate_near: {bands: 112}}\n"
        "  - {name: a, format: cc100, path: a.txt, language: en, deduplicate_near: {threshold: 0.8}}\n"
        "  - {name: de, format: cc100, path: de.txt, language: de}\n"
    )
    return tmp_path / "c.yaml", corpora


@pytest.mark.parametrize(("chunk_bytes", "per_bucket"), [(1 << 20, 2_000_000), (6000, 600)])
def test_rows_go_that_are_like_an_earlier_row_of_their_group_in_the_order_of_the_catalog(
    chunk_bytes: int,
    per_bucket: int,
    catalog: tuple[Path, dict[str, list[str]]],
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_prep.deduplicate.ROWS_PER_BUCKET", per_bucket)
    monkeypatch.setattr("data_prep.deduplicate.COMPARED_AT_ONCE", 50)
    path, corpora = catalog
    manifest = build(path, tokenizer, tmp_path / "out", Options(chunk_bytes=chunk_bytes))
    assert manifest is not None
    for group in (["b", "a"], ["all"], ["de"]):
        stays, goes = expected_of(corpora, group)
        for name in group:
            ids = [bare_ids(tokenizer, text) for text in stays[name]]
            assert [row["tokens"] for row in rows_of(tmp_path / "out", name, "train")] == ids
            (entry,) = (entry for entry in manifest.corpora if entry.name == name)
            assert (entry.rejected.get(NEAR, 0), entry.rejected.get(ELSEWHERE, 0)) == goes[name]
            assert min(goes["a"]) > 2 if name == "a" else goes[name][1] == 0


def test_a_row_is_compared_with_the_first_of_its_key_and_with_the_one_before_it(tmp_path: Path) -> None:
    near, keys = Near(permutations=10, bands=1), np.zeros(4, BAND_KEY)
    keys["high"], keys["row"] = [7, 7, 7, 9], range(4)
    sketches = np.array([[1] * 10, [2] * 10, [2] * 9 + [3], [2] * 10], np.uint8)
    for kind, array in (("near", keys), ("sketches", sketches)):
        work_folder.write_array(work_folder.keys_path(tmp_path, "a", "train", 0, kind), array)
    find_repeated(Bucket(tmp_path, (("a", 1),), 0, 0, near))
    assert np.load(tmp_path / "work/a/drops-near-0-00000.npy").tolist() == [[0, 0, 2, 0]]


def test_pairs_are_near_duplicates_by_both_sides_and_exact_copies_count_as_such(tokenizer: Path, tmp_path: Path) -> None:
    draw = random.Random(8)
    one, two, three, four = (family(draw, 2, 1000 * number) for number in range(4))
    pairs = [(one[0], two[0]), (one[1], two[1]), (one[1], three[0]), (one[0], two[0])]
    (tmp_path / "p.tsv").write_text("\n".join("\t".join(pair) for pair in pairs))
    (tmp_path / "other.tsv").write_text("\t".join((four[0], three[0])))
    (tmp_path / "c.yaml").write_text(
        "deduplicate_near: true\ncorpora:\n"
        "  - {name: other, format: tsv, path: other.tsv, languages: [en, fr], held_out: 0}\n"
        "  - {name: p, format: tsv, path: p.tsv, languages: [en, fr], held_out: 0, deduplicate: true}\n"
    )
    manifest = build(tmp_path / "c.yaml", tokenizer, tmp_path / "out")
    assert manifest is not None
    assert manifest.corpora[1].rejected == {NEAR: 1, "duplicate of an earlier line": 1}
    kept = [bare_ids(tokenizer, pairs[place][0]) for place in (0, 2)]
    assert [row["source"] for row in rows_of(tmp_path / "out", "p", "train")] == kept


def test_a_bucket_of_more_chunks_than_files_may_be_open(tmp_path: Path) -> None:
    """Each chunk has a row that all have, and one of its own."""
    num_chunks, limits = 300, resource.getrlimit(resource.RLIMIT_NOFILE)
    near = Near(permutations=8, bands=2)
    corpus = Corpus("a", "cc100", ("en",), (), deduplicate=True, deduplicate_near=near)
    for index in range(num_chunks):
        keys = RowKeys(corpus)
        keys.add([["all of them", f"this one {index}"]])
        keys.write(tmp_path, "train", index)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        for settings in (None, near):
            find_repeated(Bucket(tmp_path, (("a", num_chunks),), 0, 0, settings))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for kind in ("keys", "near"):
        drops = np.load(tmp_path / f"work/a/drops-{kind}-0-00000.npy")
        assert np.unique(drops, axis=0).tolist() == [[0, index, 0, 0] for index in range(1, num_chunks)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("soon", "expected true, false or a mapping"),
        ({"treshold": 0.8}, "did you mean deduplicate_near.threshold"),
        ({"threshold": 80}, "a number above 0, up to 1"),
        ({"words": 0}, "a whole number from 1 to 100"),
        ({"bands": 15}, "112 is not a multiple of bands, 15"),
    ],
)
def test_what_a_catalog_may_not_say_is_refused_with_the_place(value: object, expected: str) -> None:
    with pytest.raises(InputError, match=rf"c.yaml: corpora\[0\].*{re.escape(expected)}"):
        read_near(value, "c.yaml: corpora[0] (a)")


def test_an_estimate_has_the_time_that_keys_take_and_not_that_of_loading_what_makes_them(
    catalog: tuple[Path, dict[str, list[str]]], tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only making keys moves on, a second a row."""
    clock, real = [0.0], near_duplicates.signatures

    def slow(sides: list[list[str]], near: Near) -> near_duplicates.Signatures:
        clock[0] += len(sides[0])
        return real(sides, near)

    for kind in ("monotonic", "process_time"):
        monkeypatch.setattr(f"data_prep.estimate.time.{kind}", lambda: clock[0])
    monkeypatch.setattr(near_duplicates, "signatures", slow)
    found = estimate(read_catalog(catalog[0])[0], tokenizer)
    assert found.rows == 70
    assert found.seconds == 8 * -(-found.rows // 8)  # of each eighth row the keys are made


def test_nothing_is_compared_by_default_and_without_the_package_it_is_one_clear_line(
    catalog: tuple[Path, dict[str, list[str]]], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = catalog
    near = {corpus.name: corpus.deduplicate_near for corpus in read_catalog(path)}
    assert near == {"b": Near(), "all": Near(bands=112), "a": Near(), "de": Near()}
    compared = estimate(read_catalog(path)[0], tokenizer)
    path.write_text(path.read_text().replace("deduplicate_near: true\n", ""))
    plain = estimate(read_catalog(path)[0], tokenizer)
    assert not plain.corpus.is_compared
    assert compared.disk_bytes == pytest.approx(2 * plain.disk_bytes + plain.rows * (112 + 14 * 12), abs=2)
    monkeypatch.setattr(near_duplicates, "PACKAGE", "no_such_package")
    near_duplicates.engine.cache_clear()
    with pytest.raises(InputError, match=r"`deduplicate_near` needs no_such_package, .* pip install 'ernie-m\[filters\]'"):
        build(path, tokenizer, tmp_path / "out")
    near_duplicates.engine.cache_clear()
    assert not (tmp_path / "out").exists()
