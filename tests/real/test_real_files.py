"""Every task from its command to its scores on whole real files, two seeds each; scores are counted once more here.

`make test-real` runs this, in ten minutes on two cores. Files are in `ERNIE_M_REAL_DATA`: eval/xnli and so on, under their
published names.
What is counted here shares no code with the package: it reads the files and the written predictions itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.downstream_fixtures import plain_accuracies, real_data, tiny_encoder
from tests.integration.conftest import ROOT, environment

pytestmark = pytest.mark.real
__all__ = ["real_data", "tiny_encoder"]
SEEDS = (1, 2)


def finetune(task: str, encoder: Path, data: Path, to: Path, *options: str) -> tuple[dict[str, Any], str]:
    """results.json of the command, and what it printed."""
    command = [sys.executable, "launcher/finetune.py", task, "--model", encoder, "--data", data, "--to", to, *options]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((to / "results.json").read_text(encoding="utf-8")), done.stdout


def predictions(to: Path, seed: int, language: str) -> list[Any]:
    lines = (to / f"seed_{seed}/predictions/{language}.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [json.loads(line) for line in lines]


def assert_mean_is_of_the_seeds(content: dict[str, Any], language: str, metric: str, scores: Sequence[float]) -> None:
    found = content["languages"][language][metric]
    assert (found["mean"], found["sd"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)), abs=1e-9)


def is_tested(key: int) -> bool:
    """Whether --from_dev puts a key into the last fifth."""
    return int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") / 2**64 >= 0.8


@pytest.mark.parametrize(
    ("task", "together", "names"),
    [("xnli", 3, {}), ("pawsx", 1, {"0": "different", "1": "paraphrase"})],  # XNLI: lines of one premise
)
def test_classes_are_counted_as_in_the_files(
    task: str, together: int, names: dict[str, str], tiny_encoder: Path, real_data: Path, tmp_path: Path
) -> None:
    options = ("--from_dev", "--seeds", "2", "epochs=1", "max_length=64", "learning_rate=1e-3")
    content, printed = finetune(task, tiny_encoder, real_data / task, tmp_path, *options)
    languages = sorted(path.stem.removeprefix("dev-") for path in (real_data / task).glob("dev-*.tsv"))
    assert list(content["languages"]) == languages
    assert len(languages) > 3
    assert content["paper"] is None
    assert "the paper has no row for parts of " in printed
    for language in languages:
        lines = (real_data / task / f"dev-{language}.tsv").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        labels = [line.split("\t")[2] for number, line in enumerate(lines) if is_tested(number // together)]
        assert 350 < len(labels) < 600
        scores = []
        for seed, result in zip(SEEDS, content["seeds"], strict=True):
            predicted = predictions(tmp_path, seed, language)
            right = sum(given == names.get(label, label) for given, label in zip(predicted, labels, strict=True))
            scores.append(100 * right / len(labels))
            assert result["test"][language]["accuracy"] == pytest.approx(scores[-1])
        assert_mean_is_of_the_seeds(content, language, "accuracy", scores)


def sentences_of(path: Path) -> list[tuple[list[str], list[str]]]:
    """Tokens and tags, blank lines between sentences."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for line in path.read_bytes().decode("utf-8").split("\n"):
        if line.strip():
            token, tag = line.split("\t")
            sentences[-1][0].append(token.partition(":")[2] if re.match(r"[a-z]{2}:", token) else token)
            sentences[-1][1].append(tag)
        elif sentences[-1][0]:
            sentences.append(([], []))
    return [sentence for sentence in sentences if sentence[0]]


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first word and the one behind the last, by conlleval's rule; a string of letters, not a state machine."""
    starts = [
        tag != "O" and (tag[0] == "B" or before[2:] != tag[2:]) for before, tag in zip(["O", *tags], tags, strict=False)
    ]
    shape = "".join("O" if tag == "O" else "S" if start else "I" for tag, start in zip(tags, starts, strict=True))
    return {(tags[match.start()][2:], *match.span()) for match in re.finditer("SI*", shape)}


def test_entities_are_counted_as_conlleval_does(tiny_encoder: Path, real_data: Path, tmp_path: Path) -> None:
    folder, languages = real_data / "wikiann", ("de", "zh")
    named = [f"--train_files={folder}/train-en.tsv", f"--validation_files={folder}/dev-en.tsv"]
    named.append("--test_files=" + ",".join(f"{folder}/dev-{language}.tsv" for language in languages))
    options = ("--seeds", "2", "epochs=1", "batch_size=64", "max_length=128", "learning_rate=3e-3", "layer_decay=1")
    content, printed = finetune("ner", tiny_encoder, folder, tmp_path, *named, *options)
    assert "the paper has no row for WikiANN; its rows are of CoNLL" in printed
    for language in languages:
        expected = sentences_of(folder / f"dev-{language}.tsv")
        assert len(expected) > 5000
        scores = []
        for seed, result in zip(SEEDS, content["seeds"], strict=True):
            written = predictions(tmp_path, seed, language)
            assert [line["words"] for line in written] == [words for words, _ in expected], "every word of the file, once"
            found = [
                (entities(tags), entities(line["predicted"])) for (_, tags), line in zip(expected, written, strict=True)
            ]
            gold, given, both = (sum(map(len, part)) for part in zip(*((g, p, g & p) for g, p in found), strict=True))
            assert both > 0
            of = result["test"][language]
            assert of["precision"] == pytest.approx(100 * both / given)
            assert of["recall"] == pytest.approx(100 * both / gold)
            scores.append(200 * both / (gold + given))
            assert of["f1"] == pytest.approx(scores[-1])
        assert_mean_is_of_the_seeds(content, language, "f1", scores)


GERMAN = {"ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"}
ARTICLES: dict[str, set[str]] = {"en": {"a", "an", "the"}, "de": GERMAN, "zh": set()}


def words_of(text: str, language: str) -> list[str]:
    """Normalised as MLQA's evaluation does, character by character."""
    kept = [c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P"]
    apart = "".join(f" {c} " if language == "zh" and "\u4e00" <= c <= "\u9fa5" else c for c in kept)
    spaced = re.sub(r"\w+", lambda word: " " if word[0] in ARTICLES[language] else word[0], apart)
    return spaced.split()


def f1(predicted: list[str], right: list[str]) -> float:
    shared = sum(min(predicted.count(word), right.count(word)) for word in set(predicted))
    return 2 / (len(predicted) / shared + len(right) / shared) if shared else 0.0


def test_answers_are_counted_as_mlqas_script_does(tiny_encoder: Path, real_data: Path, tmp_path: Path) -> None:
    languages = ("de", "en", "zh")
    files = {language: real_data / f"mlqa/dev-context-{language}-question-{language}.json" for language in languages}
    named = [f"--train_files={real_data}/xquad/xquad.en.json", f"--validation_files={files['en']}"]
    named.append("--test_files=" + ",".join(map(str, files.values())))
    options = ("--seeds", "2", "epochs=1", "max_length=128", "doc_stride=48", "max_query_length=40", "learning_rate=3e-3")
    content, printed = finetune("mlqa", tiny_encoder, real_data / "mlqa", tmp_path, *named, *options)
    assert "the paper has no row for MLQA's dev files" in printed
    for language, path in files.items():
        paragraphs = [p for article in json.loads(path.read_text(encoding="utf-8"))["data"] for p in article["paragraphs"]]
        questions = {q["id"]: (p["context"], [a["text"] for a in q["answers"]]) for p in paragraphs for q in p["qas"]}
        scores = []
        for seed, result in zip(SEEDS, content["seeds"], strict=True):
            written = {line["id"]: line["prediction"] for line in predictions(tmp_path, seed, language)}
            assert written.keys() == questions.keys(), "every question is answered, once"
            exact = overlap = 0.0
            for key, (context, answers) in questions.items():
                assert written[key] in context
                given, right = words_of(written[key], language), [words_of(answer, language) for answer in answers]
                exact += max(" ".join(given) == " ".join(answer) for answer in right)
                overlap += max(f1(given, answer) for answer in right)
            assert overlap > 0
            assert result["test"][language]["em"] == pytest.approx(100 * exact / len(questions))
            scores.append(100 * overlap / len(questions))
            assert result["test"][language]["f1"] == pytest.approx(scores[-1])
        assert_mean_is_of_the_seeds(content, language, "f1", scores)


def test_the_sweep_over_layers_is_that_of_a_plain_numpy_script(tiny_encoder: Path, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "tatoeba"
    content, printed = finetune("tatoeba", tiny_encoder, folder, tmp_path)
    sources = sorted(path for path in folder.glob("tatoeba.*-eng.*") if path.suffix != ".eng")
    sizes = {path.suffix[1:]: path.read_bytes().count(b"\n") for path in sources}
    assert {language: of["pairs"] for language, of in content["languages"].items()} == sizes
    assert len(sizes) > 10
    plain = {language: plain_accuracies(tiny_encoder, folder, language) for language in sizes}
    for language, expected in plain.items():
        found = content["languages"][language]["trained"]
        assert np.allclose([found["to_english"], found["from_english"]], expected, atol=1e-6), language
    mean = np.mean([expected[0] for expected in plain.values()], axis=0)
    assert content["layers"]["trained"]["to_english"] == pytest.approx(list(mean))
    assert content["average"]["trained"] == pytest.approx(mean[content["layer"]])
    assert f"{mean[content['layer']]:.1f}" in printed
    assert Counter(sizes.values())[1000] > 5, "whole files"
