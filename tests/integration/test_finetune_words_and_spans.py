"""`ner` and `mlqa` from files to scores: what can be learnt is, and scores are those of the written predictions."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_prep import embedded
from ernie_m.downstream.experiment import Experiment, run
from ernie_m.downstream.mlqa import Mlqa
from ernie_m.downstream.ner import Ner
from ernie_m.downstream.task_files import FileOptions
from tests.downstream_fixtures import EXACT, real_data, tiny_encoder, without_dropout

__all__ = ["real_data", "tiny_encoder"]
NAMES = {"PER": ("April", "June March"), "LOC": ("Japan", "India"), "ORG": ("Time Euro", "week")}
"""Words of one piece each, else two layers would have to put them together first."""
QUICK = ("learning_rate=3e-3", "layer_decay=1", "batch_size=8", "max_length=64")
SHORT = ("doc_stride=16", "max_query_length=30")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small take longer on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def experiment(task: Any, encoder: Path, folder: Path, *overrides: str, **files: Any) -> Experiment:
    options = FileOptions(files.pop("data", folder), {}, **files)
    overrides = (*QUICK, *overrides)
    return Experiment(
        task, next(iter(task.settings)), encoder, options, folder / "run", (1, 2), overrides, keep_models=False
    )


def predictions(folder: Path, seed: int, language: str) -> list[Any]:
    path = folder / "run" / f"seed_{seed}" / "predictions" / f"{language}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words_without_names(draw: random.Random, language: str) -> list[str]:
    """The words of a sentence, but those that are parts of names here."""
    words = embedded.sentence(0, draw.randrange(400), language).split()
    parts = " ".join(name for names in NAMES.values() for name in names).split()
    return [word for word in words if word.strip(",.()") not in parts]


def write_columns(path: Path, count: int, language: str, seed: int) -> None:
    """Sentences with names in them, in WikiANN's layout."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        tokens = [(word, "O") for word in words_without_names(draw, language)[:8]]
        kind = draw.choice(list(NAMES))
        name = draw.choice(NAMES[kind]).split()
        at = draw.randrange(len(tokens) + 1)
        tokens[at:at] = [(word, f"{'I' if k else 'B'}-{kind}") for k, word in enumerate(name)]
        lines += [*(f"{language}:{word}\t{tag}\n" for word, tag in tokens), "\n"]
    path.write_text("".join(lines), encoding="utf-8")


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word; an I- that continues nothing starts an entity."""
    found: list[tuple[str, int, int]] = []
    for at, tag in enumerate(tags):
        if tag != "O":
            continues = tag[0] == "I" and found and found[-1][0] == tag[2:] and found[-1][2] == at - 1
            found = [*found[:-1], (*found[-1][:2], at)] if continues else [*found, (tag[2:], at, at)]
    return set(found)


def test_names_are_learnt_and_scores_are_those_of_the_written_predictions(tiny_encoder: Path, tmp_path: Path) -> None:
    for part, count in (("train", 160), ("dev", 30), ("test", 40)):
        write_columns(tmp_path / f"{part}-en.tsv", count, "en", count)
    write_columns(tmp_path / "test-fr.tsv", 40, "fr", 5)
    content = run(experiment(Ner(), tiny_encoder, tmp_path, "epochs=4"))
    for result in content["seeds"]:
        assert result["test"]["en"]["f1"] > 70
        for language in ("en", "fr"):
            written = predictions(tmp_path, result["seed"], language)
            assert len(written) == 40
            pairs = [(entities(line["gold"]), entities(line["predicted"])) for line in written]
            right, found, both = (sum(map(len, part)) for part in zip(*((g, p, g & p) for g, p in pairs), strict=True))
            assert result["test"][language]["f1"] == pytest.approx(200 * both / (right + found))
    again = run(experiment(Ner(), tiny_encoder, tmp_path, "epochs=4"))
    assert again["seeds"] == content["seeds"], "finished seeds are not trained again"


def write_unequal(path: Path, count: int) -> None:
    """Sentences of 1 or 12 words, in WikiANN's layout."""
    draw, lines = random.Random(count), []
    for number in range(count):
        words = (words_without_names(draw, "en") * 3)[: 12 if number % 3 == 0 else 1]
        lines += [*(f"{word}\t{draw.choice(('O', 'B-PER', 'B-LOC'))}\n" for word in words), "\n"]
    path.write_text("".join(lines), encoding="utf-8")


def test_words_count_alike_however_the_batch_is_cut_over_micro_batches_and_ranks(
    tiny_encoder: Path, tmp_path: Path, start_ranks: Callable[..., subprocess.Popen[str]]
) -> None:
    """Without dropout only the order of additions differs; a learning rate lost on the way would show."""
    encoder = without_dropout(tiny_encoder, tmp_path / "encoder")
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 96), ("dev", 12), ("test", 12)):
        write_unequal(data / f"{part}-en.tsv", count)
    # No sentence in windows, for the ranks would not share the last batch evenly; no clipping, which would hide a factor.
    whole = (*(of for of in EXACT if not of.startswith("max_length=")), "max_length=128", "clip=1000")
    options = ["ner", "--model", encoder, "--data", data, "--to", tmp_path / "two", "--seeds", "4,", *whole]
    process = start_ranks(2, "launcher/finetune.py", *options, "micro_batch=2", "--zero_stage", "2")
    for name, micro in (("one", 16), ("parts", 4)):
        overrides = (*whole, f"micro_batch={micro}")
        run(Experiment(Ner(), "en", encoder, FileOptions(data, {}), tmp_path / name, (4,), overrides))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    assert output.count("protocol: entity F1") == 1, "one rank reports"
    start, one, parts, two = (
        load_file(folder / "model.safetensors")
        for folder in (encoder, *(tmp_path / name / "seed_4/model" for name in ("one", "parts", "two")))
    )
    assert one.keys() == parts.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, parts[name], atol=2e-6), name
        assert torch.allclose(value, two[name], atol=2e-6), name
    moved = {name: (one[name] - start[name]).abs().max().item() for name in start if name in one}
    lower, upper = (moved[f"roberta.encoder.layer.{i}.output.dense.weight"] for i in (0, 1))
    assert 1e-4 < lower < 0.7 * upper, "the lower layer has half the rate"


def write_questions(path: Path, count: int, seed: int) -> None:
    """Which country is in it: one name in a context of several windows."""
    draw, articles = random.Random(seed), []
    for number in range(count):
        words = [word for _ in range(2) for word in words_without_names(draw, "en")]
        name = draw.choice(NAMES["LOC"])
        words.insert(draw.randrange(len(words) + 1), name)
        context = " ".join(words)
        entry = {"id": str(number), "question": "Where?", "answers": [{"text": name, "answer_start": context.index(name)}]}
        articles.append({"title": "T", "paragraphs": [{"context": context, "qas": [entry]}]})
    path.write_text(json.dumps({"version": "1.1", "data": articles}))


def test_answers_are_learnt_and_scores_are_those_of_the_written_predictions(tiny_encoder: Path, tmp_path: Path) -> None:
    write_questions(tmp_path / "train-v1.1.json", 120, 1)
    write_questions(tmp_path / "dev-context-en-question-en.json", 30, 2)
    for pair in ("en-question-en", "vi-question-vi"):
        write_questions(tmp_path / f"test-context-{pair}.json", 30, 3)
    content = run(experiment(Mlqa(), tiny_encoder, tmp_path, "epochs=2", *SHORT))
    for result in content["seeds"]:
        assert result["test"]["en"]["em"] > 50
        for language in ("en", "vi"):
            written = predictions(tmp_path, result["seed"], language)
            exact = [line["prediction"].lower().strip(",.()") == line["answers"][0].lower() for line in written]
            assert result["test"][language]["em"] == pytest.approx(100 * sum(exact) / 30)
        assert result["test"]["en"]["f1"] >= result["test"]["en"]["em"]


def first_question(article: dict[str, Any]) -> dict[str, Any]:
    """Of 48 articles, one paragraph with one question each."""
    paragraph = article["paragraphs"][0]
    return {**article, "paragraphs": [{**paragraph, "qas": paragraph["qas"][:1]}]}


@pytest.mark.parametrize(("task", "source"), [(Ner(), "wikiann"), (Mlqa(), "xquad")])
def test_real_files_go_through_to_scores(
    tiny_encoder: Path, real_data: Path, tmp_path: Path, task: Any, source: str
) -> None:
    """The start of each real file: a model this small learns nothing there, but everything that is read is scored."""
    names = {"wikiann": ("dev-en.tsv", "dev-zh.tsv"), "xquad": ("xquad.en.json", "xquad.zh.json")}[source]
    for name in names:
        text = (real_data / source / name).read_text(encoding="utf-8")
        if source == "xquad":
            text = json.dumps({"data": [first_question(article) for article in json.loads(text)["data"]]})
        else:
            text = "\n\n".join(text.split("\n\n")[:150]) + "\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    quick = ("epochs=1", "batch_size=16", "max_length=128")
    content = run(experiment(task, tiny_encoder, tmp_path, *quick, from_dev=True))
    assert set(content["languages"]) == {"en", "zh"}
    assert "cut out of dev files" in content["protocol"]
    for result in content["seeds"]:
        for language, scores in result["test"].items():
            assert all(0 <= scores[metric] <= 100 for metric in task.metrics)
            assert len(predictions(tmp_path, result["seed"], language)) > 5
