"""Training a tokenizer: XLM-R's layout, smoothed shares, the same bytes each time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from prep_samples import sentences

from data_prep import tokenizer_training
from data_prep.catalog import Corpus
from data_prep.tokenizer_training import chosen_lines, count_lines, share_out, train_tokenizer
from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import UNK_ID


@pytest.fixture
def corpora(tmp_path: Path) -> list[Corpus]:
    (tmp_path / "en").write_text("".join(f"en {i}\n" for i in range(900)))
    (tmp_path / "sw").write_text("".join(f"sw {i}\n" for i in range(90)) + "\n \n")
    (tmp_path / "pairs.tsv").write_text("".join(f"sw {i}\ten {i + 900}\n" for i in range(90, 100)) + "sw x\t \n")
    return [
        Corpus("en", "cc100", ("en",), (tmp_path / "en",)),
        Corpus("sw", "cc100", ("sw",), (tmp_path / "sw",)),
        Corpus("p", "tsv", ("sw", "en"), (tmp_path / "pairs.tsv",)),
    ]


def test_both_sides_of_pairs_and_monolingual_lines_are_counted(corpora: list[Corpus]) -> None:
    assert count_lines(corpora) == {"en": 910, "sw": 100}


def test_languages_share_the_sample_by_smoothed_counts() -> None:
    counts = {"en": 10_000, "sw": 100}
    assert share_out(counts, 1.0, 1010) == {"en": 1000, "sw": 10}
    assert share_out(counts, 0.5, 1100) == {"en": 1000, "sw": 100}
    assert share_out(counts, 0.0, 10**9) == {"en": 5050, "sw": 5050}
    with pytest.raises(InputError, match="at least one for each of the 2 languages"):
        share_out(counts, 0.3, 1)


def test_exactly_the_quota_is_chosen_and_every_line_as_evenly_as_can_be(corpora: list[Corpus]) -> None:
    counts = count_lines(corpora)
    chosen = Counter(chosen_lines(corpora, counts, {"en": 300, "sw": 250}, seed=0))
    english = {line: n for line, n in chosen.items() if line.startswith("en")}
    swahili = {line: n for line, n in chosen.items() if line.startswith("sw")}
    assert (len(english), set(english.values())) == (300, {1})
    assert (len(swahili), sum(swahili.values()), set(swahili.values())) == (100, 250, {2, 3})
    assert 100 < sum(int(line.split()[1]) < 455 for line in english) < 200  # from everywhere, not from the front


def test_the_seed_alone_decides_the_choice(corpora: list[Corpus]) -> None:
    counts = count_lines(corpora)
    first, again, other = (list(chosen_lines(corpora, counts, {"en": 30, "sw": 30}, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.fixture
def text_catalog(tmp_path: Path) -> Path:
    (tmp_path / "en.txt").write_text("\n".join(sentences(300, seed=4)))
    (tmp_path / "c.yaml").write_text("corpora: [{name: m, format: cc100, path: en.txt, language: en}]")
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_model_has_xlm_rs_layout_and_the_same_bytes_twice(text_catalog: Path, tmp_path: Path, model_type: str) -> None:
    models = [tmp_path / "a.model", tmp_path / "b.model"]
    for model in models:
        assert train_tokenizer(text_catalog, model, 90, model_type).size == 90
    processor = sentencepiece.SentencePieceProcessor(model_file=str(models[0]))
    assert [processor.id_to_piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert processor.get_piece_size() == 88
    assert processor.pad_id() == -1
    assert processor.encode("ﬁ") == processor.encode("fi")  # nmt_nfkc
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_vocabulary_too_large_names_the_largest_that_works(text_catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.model"
    with pytest.raises(InputError, match=r"--vocab_size 90000: too large .* allows is (\d+)") as error:
        train_tokenizer(text_catalog, out, 90_000)
    assert not out.exists()
    most = int(str(error.value).rpartition(" ")[2])
    assert train_tokenizer(text_catalog, out, most).size == most
    with pytest.raises(InputError, match="too large"):
        train_tokenizer(text_catalog, out, most + 1, overwrite=True)


def test_each_kind_of_model_has_a_size_of_its_own(text_catalog: Path, tmp_path: Path) -> None:
    for model_type, size in (("unigram", 250_002), ("bpe", 60_000)):
        with pytest.raises(InputError, match=f"--vocab_size {size}: too large"):
            train_tokenizer(text_catalog, tmp_path / "m.model", model_type=model_type)


def test_a_vocabulary_too_small_names_the_least(text_catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too small .* at least (\d+)") as error:
        train_tokenizer(text_catalog, tmp_path / "m", 10)
    least = int(str(error.value).partition("at least ")[2].partition(" ")[0])
    assert train_tokenizer(text_catalog, tmp_path / "m", least).size == least


def test_the_longest_line_that_the_catalog_allows_is_heard(tmp_path: Path) -> None:
    """SentencePiece drops what is longer than it was told, in silence; in bytes, of which a character may have four."""
    (tmp_path / "en.txt").write_text("\n".join(sentences(200, seed=4)) + "\n" + "𐎀𐎁 " * 9_000, encoding="utf-8")
    corpus = "{name: m, format: cc100, path: en.txt, language: en, max_characters: 30000}"
    (tmp_path / "c.yaml").write_text(f"corpora: [{corpus}]")
    vocabulary = train_tokenizer(tmp_path / "c.yaml", tmp_path / "m", 90, character_coverage=1.0)
    assert UNK_ID not in vocabulary.encode("𐎀𐎁")
    assert UNK_ID in vocabulary.encode("𐎂")


def test_long_training_says_that_it_is_at_work(
    text_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(text_catalog, tmp_path / "quick", 90)
    assert "SentencePiece works" not in capsys.readouterr().err
    monkeypatch.setattr(tokenizer_training, "SECONDS_BETWEEN_SIGNS", 0.001)
    train_tokenizer(text_catalog, tmp_path / "slow", 90)
    assert re.search(r"^SentencePiece works on 300 sentences: \d+s so far$", capsys.readouterr().err, re.MULTILINE)
    assert (tmp_path / "quick").read_bytes() == (tmp_path / "slow").read_bytes()


def test_an_output_that_cannot_be_written_is_known_at_once(text_catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"--out .*folder: a folder; expected the name of a file"):
        train_tokenizer(text_catalog, tmp_path / "folder", 80)


def test_a_file_that_is_there_is_replaced_only_when_told(text_catalog: Path, tmp_path: Path) -> None:
    out, link = tmp_path / "notes.txt", tmp_path / "link"
    out.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for path in (out, link):
        with pytest.raises(InputError, match=rf"--out .*{path.name}: exists and stays as it is; .*--overwrite"):
            train_tokenizer(text_catalog, path, 90)
    assert out.read_text() == "mine"
    train_tokenizer(text_catalog, out, 90, overwrite=True)
    assert out.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "word"}, "--model_type word: expected one of unigram, bpe"),
        ({"vocab_size": 3}, "--vocab_size 3"),
    ],
)
def test_wrong_options_are_named(text_catalog: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_tokenizer(text_catalog, tmp_path / "m", **{"vocab_size": 80, **options})
    with pytest.raises(InputError, match="does not exist"):
        train_tokenizer(text_catalog, tmp_path / "gone" / "m", 80)
