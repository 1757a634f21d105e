"""Each word is predicted once, however long its sentence, and entities are scored as conlleval scores them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep import embedded
from ernie_m.base.console import InputError
from ernie_m.downstream import ner
from ernie_m.downstream.conll import OUTSIDE, Sentence, read_columns
from ernie_m.downstream.ner import Ner, NerHyperparameters
from ernie_m.downstream.task import Setup
from ernie_m.downstream.task_files import FileOptions, load

TYPES = ("LOC", "ORG", "PER")
LABELS = (OUTSIDE, *(f"{start}-{kind}" for kind in TYPES for start in "BI"))
TASK = Ner()


def setup(tokenizer: Any, max_length: int = 24, overlap: int = 6) -> Setup:
    chosen = NerHyperparameters(learning_rate=1e-3, batch_size=8, epochs=1, max_length=max_length, overlap=overlap)
    return Setup(tokenizer, chosen, LABELS, "en")


def drawn(count: int, seed: int = 0) -> list[Sentence]:
    """Sentences of 1 to 60 words of several scripts with random entities; some words have no piece, or very many."""
    draw, made = random.Random(seed), []
    for number in range(count):
        words: list[str] = []
        for _ in range(draw.choice([1, 1, 2, 8])):
            language = draw.choice(["en", "ar", "hi", "zh", "ru", "th"])
            words += embedded.sentence(0, draw.randrange(500), language).split()
        for odd in ("\u200b", "", "a b", "\u2028", "x\ufeff", "q" * 300):
            if draw.random() < 0.15:
                words.insert(draw.randrange(len(words) + 1), odd)
        tags = [draw.choice(LABELS) for _ in words]
        tags = [t if t[0] != "I" or p[2:] == t[2:] else f"B{t[1:]}" for p, t in zip([OUTSIDE, *tags], tags, strict=False)]
        made.append(Sentence(tuple(words), tuple(tags), f"file, line {number}"))
    return made


def knowing(features: Any, num_labels: int = len(LABELS)) -> np.ndarray:
    """Logits [features, length, classes] that are right where there is a label, and loud nonsense elsewhere."""
    longest = max(len(feature["input_ids"]) for feature in features)
    logits = np.random.default_rng(0).normal(scale=100, size=(len(features), longest, num_labels))
    for row, feature in enumerate(features):
        for position, label in enumerate(feature["labels"]):
            if label != -100:
                logits[row, position] = np.arange(num_labels) == label
    return logits


def conlleval(sentences: list[tuple[list[str], list[str]]]) -> tuple[float, float, float]:
    """(F1, precision, recall) in percent as conlleval.pl counts: one pass over the tokens, entities open on both sides."""
    right, found, correct, is_open = 0, 0, 0, ""
    before = (OUTSIDE, OUTSIDE)
    for pair in [token for gold, guess in sentences for token in [*zip(gold, guess, strict=True), (OUTSIDE, OUTSIDE)]]:
        ends, starts = [], []
        for now, last in zip(pair, before, strict=True):
            changed = now[2:] != last[2:]
            ends.append(last != OUTSIDE and (now == OUTSIDE or now[0] == "B" or changed))
            starts.append(now != OUTSIDE and (now[0] == "B" or last == OUTSIDE or changed))
        if is_open:
            if ends[0] and ends[1]:
                correct, is_open = correct + 1, ""
            elif ends[0] != ends[1] or pair[0][2:] != pair[1][2:]:
                is_open = ""
        if starts[0] and starts[1] and pair[0][2:] == pair[1][2:]:
            is_open = pair[0][2:]
        right, found, before = right + starts[0], found + starts[1], pair
    precision, recall = (correct / total if total else 0.0 for total in (found, right))
    f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
    return 100 * f1, 100 * precision, 100 * recall


@pytest.mark.parametrize(("max_length", "overlap"), [(24, 6), (24, 0), (9, 128), (128, 128)])
def test_every_word_is_predicted_once_and_at_its_first_piece(tokenizer: Any, max_length: int, overlap: int) -> None:
    sentences, chosen = drawn(60), setup(tokenizer, max_length, overlap)
    features = TASK.features(sentences, chosen, with_answers=True)
    told = Counter()
    for feature in features:
        assert len(feature["input_ids"]) == len(feature["labels"]) <= max_length
        assert sum(label != -100 for label in feature["labels"]) == len(feature["word_W"])
        for word, position in zip(feature["word_W"].tolist(), feature["position_W"].tolist(), strict=True):
            text = sentences[feature["example_index"]].words[word]
            pieces = tokenizer(text, add_special_tokens=False)["input_ids"] or [tokenizer.unk_token_id]
            assert feature["input_ids"][position] == pieces[0]
            told[feature["example_index"], word] += 1
    assert told == Counter({(number, word): 1 for number, s in enumerate(sentences) for word in range(len(s.words))})
    assert any("" in s.words for s in sentences)
    assert (len(features) > len(sentences)) == (max_length < 100 or any("q" * 300 in s.words for s in sentences))
    scored = TASK.score(sentences, features, knowing(features), chosen, "en")
    assert scored.metrics == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
    assert [p["predicted"] for p in scored.predictions] == [list(s.tags) for s in sentences]


def test_features_for_scoring_are_those_of_training_without_labels(tokenizer: Any) -> None:
    sentences, chosen = drawn(30), setup(tokenizer)
    with_labels = TASK.features(sentences, chosen, with_answers=True)
    without = TASK.features(sentences, chosen, with_answers=False)
    assert all("labels" not in feature for feature in without)
    assert [f["input_ids"] for f in with_labels] == [f["input_ids"] for f in without]
    assert [f["word_W"].tolist() for f in with_labels] == [f["word_W"].tolist() for f in without]
    batch = TASK.collator(chosen)([{k: f[k] for k in ("input_ids", "attention_mask", "labels")} for f in with_labels])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"].dtype == torch.int64
    assert int((batch["labels"] != -100).sum()) == sum(len(s.words) for s in sentences)


def test_sentences_tokenized_in_several_goes_give_the_same_features(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences, chosen = drawn(20), setup(tokenizer)
    at_once = TASK.features(sentences, chosen, with_answers=True)
    monkeypatch.setattr(ner, "SENTENCES_AT_ONCE", 3)
    for one, other in zip(at_once, TASK.features(sentences, chosen, with_answers=True), strict=True):
        assert one["example_index"] == other["example_index"]
        assert one["input_ids"] == other["input_ids"]
        assert one["labels"] == other["labels"]


def test_words_in_the_middle_of_a_long_sentence_are_read_with_context_on_both_sides(tokenizer: Any) -> None:
    long = Sentence(
        tuple(embedded.sentence(0, 1, "en").split() * 20), (OUTSIDE,) * 20 * len(embedded.sentence(0, 1, "en").split()), "f"
    )
    features = TASK.features([long], setup(tokenizer, 64, 30), with_answers=False)
    assert len(features) > 4
    for feature in features[1:-1]:
        assert feature["position_W"][0] > 10, "pieces before the first word that is answered for"
        assert len(feature["input_ids"]) - feature["position_W"][-1] > 10


def test_entity_scores_are_those_of_conlleval_on_any_tags(tokenizer: Any) -> None:
    """Also on guesses that are not proper IOB2, as a classifier's are."""
    draw, seen = random.Random(0), set()
    for trial in range(60):
        sentences, chosen = drawn(6, seed=trial), setup(tokenizer, 128)
        features = TASK.features(sentences, chosen, with_answers=True)
        logits = knowing(features)
        for row in logits:
            for position in range(len(row)):
                if draw.random() < trial / 60:
                    row[position] = [draw.random() for _ in LABELS]
        scored = TASK.score(sentences, features, logits, chosen, "en")
        pairs = [(p["gold"], p["predicted"]) for p in scored.predictions]
        expected = dict(zip(("f1", "precision", "recall"), conlleval(pairs), strict=True))
        assert scored.metrics == pytest.approx(expected, abs=1e-9)
        seen.add(round(scored.metrics["f1"]))
    assert len(seen) > 20


def test_no_entities_at_all_score_zero(tokenizer: Any) -> None:
    sentences, chosen = drawn(5), setup(tokenizer)
    features = TASK.features(sentences, chosen, with_answers=False)
    logits = np.zeros((len(features), 24, len(LABELS)))
    logits[..., 0] = 1
    assert TASK.score(sentences, features, logits, chosen, "en").metrics["f1"] == TASK.trivial_score(sentences) == 0.0


def test_real_sentences_of_any_length_are_scored_whole(tokenizer: Any, real_data: Path) -> None:
    every = read_columns(real_data / "wikiann" / "dev-zh.tsv").sentences
    sentences = sorted(every, key=lambda sentence: -len(sentence.words))[:40]
    assert len(sentences[0].words) > 700
    sentences += [sentence for sentence in every if "\u200b" in sentence.words]
    chosen = setup(tokenizer, 128, 32)
    features = TASK.features(sentences, chosen, with_answers=True)
    scored = TASK.score(sentences, features, knowing(features), chosen, "zh")
    assert scored.metrics["f1"] == 100.0
    rng = np.random.default_rng(0)
    logits = knowing(features) + rng.normal(scale=0.3, size=(len(features), 128, len(LABELS)))
    scored = TASK.score(sentences, features, logits, chosen, "zh")
    assert 5 < scored.metrics["f1"] < 95
    assert scored.metrics["f1"] == pytest.approx(conlleval([(p["gold"], p["predicted"]) for p in scored.predictions])[0])


def test_entity_types_that_were_not_trained_on_are_refused_before_training(tokenizer: Any) -> None:
    train = drawn(20)
    assert TASK.labels(train) == LABELS
    unknown = Sentence(("Cup",), ("B-MISC",), "eng.testb, line 7")
    TASK.check({"en": train}, setup(tokenizer))
    with pytest.raises(InputError, match=r"eng.testb, line 7: entities of type MISC, which is not learnt"):
        TASK.check({"en": train, "de": [unknown]}, setup(tokenizer))


@pytest.mark.parametrize("setting", ["en", "all"])
def test_conll_files_are_found_under_their_own_names(tmp_path: Path, setting: str) -> None:
    for name in ("eng", "deu", "esp", "ned"):
        for part in ("train", "testa", "testb"):
            (tmp_path / f"{name}.{part}").write_bytes(f"{name}\xe9 B-LOC\n{part} O\n".encode("latin-1"))
    data = load(TASK, setting, FileOptions(tmp_path, {}))
    everything = {"en": "engé", "de": "deué", "es": "espé", "nl": "nedé"}
    wanted = {"en": "engé"} if setting == "en" else everything
    assert sorted(s.words for s in data.train) == sorted((word, "train") for word in wanted.values())
    assert {k: [s.words for s in found] for k, found in data.validation.items()} == {
        k: [(w, "testa")] for k, w in wanted.items()
    }
    assert {k: [s.words for s in found] for k, found in data.test.items()} == {
        k: [(w, "testb")] for k, w in everything.items()
    }


def test_a_sentence_that_stands_there_twice_falls_to_one_part() -> None:
    first, other = drawn(2)
    again = Sentence(first.words, first.tags, "elsewhere")
    assert TASK.split_key(first, 3) == TASK.split_key(again, 9) != TASK.split_key(other, 3)


def test_a_file_that_does_not_tell_its_language_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("Rom\tB-LOC\n")
    with pytest.raises(InputError, match=r"neither name nor content tells the language"):
        TASK.read(tmp_path / "train.txt", None)
    assert list(TASK.read(tmp_path / "train.txt", "it")) == ["it"]
    (tmp_path / "train.txt").write_text("it:Rom\tB-LOC\n")
    assert TASK.read(tmp_path / "train.txt", None)["it"][0].words == ("Rom",)


def test_hyperparameters_are_the_released_ones() -> None:
    expected = {
        ("en", "base"): (4e-4, 0.8),
        ("en", "large"): (4e-4, 0.8),
        ("all", "base"): (3e-4, 0.8),
        ("all", "large"): (2e-4, 0.9),
    }
    for (setting, size), (rate, decay) in expected.items():
        chosen = TASK.defaults(setting, size)  # type: ignore[arg-type]
        assert (chosen.learning_rate, chosen.layer_decay) == (rate, decay)
        assert (chosen.batch_size, chosen.epochs, chosen.max_length, chosen.weight_decay) == (8, 10, 512, 0.01)
