"""Test files without labels are predicted and not scored, and predictions are written as XTREME's evaluation reads them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.commands.finetune import TASKS
from ernie_m.downstream import tatoeba
from ernie_m.downstream.bitext_tuning import BitextTuning, is_sorted
from ernie_m.downstream.experiment import _only_predicted
from ernie_m.downstream.submission import write_submission
from ernie_m.downstream.task import Setup
from ernie_m.downstream.task_files import FileOptions, TaskData, load, load_test
from ernie_m.downstream.tydiqa import Tydiqa
from ernie_m.downstream.xnli import Xnli

NER_LABELS = ("O", "B-PER", "I-PER")
PASSAGE = "Ana lives in Rome now"


def questions(*ids: str, answer: str = "") -> str:
    """SQuAD's JSON as XTREME strips it, or with an answer."""
    answers = [{"answer_start": max(0, PASSAGE.find(answer)), "text": answer}]
    qas = [{"id": key, "question": "Where does Ana live", "answers": answers} for key in ids]
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": PASSAGE, "qas": qas}]}]})


SORTED = "".join(f"{letter} is first\n" for letter in "abcdefghijkl")
FILES: dict[str, dict[str, str]] = {
    "xnli": {"test-de.tsv": "a man sleeps\tnobody sleeps\r\nhe eats\the rests\r\n"},
    "pawsx": {"test-de.tsv": "a b\tb a\r\nc d\td e\r\n"},
    "ner": {"test-de.tsv": "Ana\nlives\n\nRome\n"},
    "mlqa": {"test-context-de-question-de.json": questions("q1", "q2")},
    "xquad": {"xquad.de.json": questions("q1", "q2")},
    "tydiqa": {"tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-finnish.json": questions("finnish-1-0", "finnish-1-1")},
    "tatoeba": {"de-en.de": SORTED, "de-en.en": SORTED},
}
"""Test files by task, with XTREME's names and without labels."""
TAGS = [["B-PER", "O"], ["O"]]
PREDICTIONS: dict[str, tuple[list[Any], str]] = {
    "xnli": (["neutral", "entailment"], "neutral\nentailment\n"),
    "pawsx": (["paraphrase", "different"], "1\n0\n"),
    "ner": ([{"words": ["?"] * len(tags), "predicted": tags} for tags in TAGS], "B-PER\nO\n\nO\n"),
    "mlqa": ([{"id": "q1", "prediction": "Rome"}], '{"q1": "Rome"}'),
    "xquad": ([{"id": "q1", "prediction": "Rome"}], '{"q1": "Rome"}'),
    "tydiqa": ([{"id": "finnish-1", "prediction": "Ä"}], '{"finnish-1": "Ä"}'),
    "tatoeba": ([1, 0], "1\n0\n"),
}


def task_of(name: str) -> Any:
    module, _, cls = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), cls)()


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    return folder


def logits_of(features: Any, num_classes: int) -> Any:
    """Any numbers of the right shape: token classes and spans padded as the Trainer pads them."""
    longest = max(len(feature.get("input_ids", [])) for feature in features)
    return np.random.default_rng(0).normal(size=(len(features), longest, num_classes)).astype(np.float32)


@pytest.mark.parametrize("name", TASKS)
def test_files_as_xtreme_gives_them_out_are_read_and_predicted_without_a_score(
    name: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    task = task_of(name)
    data = load_test(task, FileOptions(written(tmp_path, FILES[name]), {}))
    assert data.test == {}
    ((language, examples),) = data.unlabelled.items()
    assert language == ("fi" if name == "tydiqa" else "de")
    setting = next(iter(task.settings))
    labels = NER_LABELS if name == "ner" else task.labels([])
    setup = Setup(AutoTokenizer.from_pretrained(tiny_encoder), task.defaults(setting, "base"), labels, setting)
    features = task.features(examples, setup, False)
    logits = logits_of(features, max(2, len(labels)))
    if name in ("xnli", "pawsx"):
        logits = logits[:, 0]
    elif name == "tatoeba":
        logits = (np.eye(len(examples)), np.roll(np.eye(len(examples)), 1, axis=0))
    elif name != "ner":
        logits = (logits[:, :, 0], logits[:, :, 1])
    scored = task.score(examples, features, logits, setup, language)
    assert scored.metrics == {}
    assert len(scored.predictions) == len(examples)
    write_submission(tmp_path, task.xtreme, {language: scored.predictions})
    assert len(list((tmp_path / "xtreme").glob("*/test-*"))) == 1


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_written_as_xtremes_evaluation_reads_them(name: str, tmp_path: Path) -> None:
    task, (predictions, expected) = task_of(name), PREDICTIONS[name]
    write_submission(tmp_path, task.xtreme, {"deu": predictions, "de-en": []})
    folder = {"ner": "panx"}.get(name, name)
    suffix = "json" if expected.startswith("{") else "tsv"
    (file,) = (tmp_path / "xtreme").rglob("test-*")  # none of a pair of languages
    assert file == tmp_path / "xtreme" / folder / f"test-de.{suffix}"
    text = file.read_text("utf-8")
    assert (json.loads(text) == json.loads(expected)) if suffix == "json" else text == expected


def test_of_languages_with_one_code_in_xtreme_that_of_the_code_is_handed_in_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_submission(tmp_path, BitextTuning.xtreme, {"cmn": [0], "zho": [1], "fil": [2], "tgl": [3]})
    assert {path.name: path.read_text() for path in (tmp_path / "xtreme/tatoeba").iterdir()} == {
        "test-zh.tsv": "1\n",
        "test-tl.tsv": "2\n",
    }
    first, second = capsys.readouterr().out.splitlines()
    assert "test-zh.tsv: of zho (XTREME's code of cmn is zh too: left out)" in first
    assert "test-tl.tsv: of fil (XTREME's code of tgl is tl too: left out)" in second


def test_labels_are_needed_in_training_and_in_all_of_a_test_file_or_none(tmp_path: Path) -> None:
    labelled = questions("finnish-1-0", answer="Rome")
    mixed = json.loads(labelled)
    mixed["data"] += json.loads(questions("finnish-1-1"))["data"]
    folder = written(tmp_path / "mixed", {"tydiqa-goldp-v1.1-dev.json": json.dumps(mixed)})
    with pytest.raises(InputError, match="1 of 2 test examples have no labels; expected labels in all or in none"):
        load_test(Tydiqa(), FileOptions(folder, {}))
    names = {f"{part}-en.tsv": "a man sleeps\tnobody sleeps\n" for part in ("train", "dev", "test")}
    with pytest.raises(InputError, match=r"train-en\.tsv: 1 of 1 train examples have no labels; expected labels"):
        load(Xnli(), "transfer", FileOptions(written(tmp_path / "xnli", names), {}))


def test_languages_of_tydiqa_are_told_by_ids_and_short_ids_may_repeat_in_training(tmp_path: Path) -> None:
    train = json.loads(questions("1", answer="Rome"))
    train["data"] *= 2  # as XTREME cuts them
    both = questions("english-1-0", "korean-2-0", answer="Rome")
    files = {"tydiqa.goldp.en.train.json": json.dumps(train), "tydiqa-goldp-v1.1-dev.json": both}
    data = load(Tydiqa(), "transfer", FileOptions(written(tmp_path, files), {}))
    assert data.num_train == {"en": 2}
    assert {language: len(found) for language, found in data.test.items()} == {"en": 1, "ko": 1}
    (tmp_path / "x.json").write_text(questions("latin-1-0"), "utf-8")
    with pytest.raises(InputError, match="question latin-1-0: neither the file's name nor the id tells the language"):
        Tydiqa().read(tmp_path / "x.json", None)


def test_sorted_english_is_not_taken_for_aligned_and_bitext_is_never_taken_for_sorted() -> None:
    lines = SORTED.splitlines()
    assert is_sorted(lines)
    assert not is_sorted(lines[::-1])
    assert not is_sorted(lines[:10]), "ten may be so by chance"
    assert not is_sorted([f"{n:04}" for n in range(1001)]), "more than Tatoeba has: to be trained on"


def test_retrieval_in_sorted_files_is_handed_in_and_not_scored(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "data", {"de-en.de": SORTED, "de-en.en": SORTED})
    assert tatoeba.run(tiny_encoder, data, tmp_path / "to", untrained=False) == {}
    assert "found and not scored, English being sorted: de" in capsys.readouterr().out
    found = (tmp_path / "to/xtreme/tatoeba/test-de.tsv").read_text().split()
    assert found == [str(n) for n in range(12)], "the same sentence is the nearest"


def test_results_without_labels_say_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = TaskData([], {}, {}, {"fr": ["?"]}, {}, {})
    experiment: Any = SimpleNamespace(task=Xnli(), setting="transfer", encoder="e", to=tmp_path, score_only=True)
    content = _only_predicted(experiment, data, [])
    assert content["not_scored"] == ["fr"]
    assert "predicted and not scored, without labels: fr;" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == content
