"""XNLI and PAWS-X files of every published layout give the same pairs; classes go by name; broken lines are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.downstream.classification import Pair
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.task import Setup, Task
from ernie_m.downstream.xnli import Xnli

PAIRS = {
    "en": [Pair("A man sleeps.", 'He "rests".', "entailment"), Pair("Rain.", "Sun.", "contradiction")],
    "zh": [Pair("一个人睡觉。", "他在休息。", "entailment"), Pair("雨。", "晴。", "contradiction")],
}
EXTRA = ("sentence1_parse", "pairID", "label1")  # the original files have such columns too


def write_xtreme(folder: Path) -> list[tuple[Path, str | None]]:
    files: list[tuple[Path, str | None]] = []
    for language, pairs in PAIRS.items():
        path = folder / f"dev-{language}.tsv"
        path.write_bytes("".join("\t".join(pair) + "\r\n" for pair in pairs).encode())
        files.append((path, language))
    return files


def write_original(folder: Path) -> list[tuple[Path, str | None]]:
    head = ["language", "gold_label", EXTRA[0], "sentence1", "sentence2", *EXTRA[1:]]
    rows = [[language, p.label, "( x )", p.first, p.second, "7", p.label] for language, of in PAIRS.items() for p in of]
    (folder / "xnli.dev.tsv").write_bytes("".join("\t".join(row) + "\r\n" for row in [head, *rows]).encode())
    return [(folder / "xnli.dev.tsv", None)]


def write_jsonl(folder: Path) -> list[tuple[Path, str | None]]:
    path = folder / "xnli.dev.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for language, pairs in PAIRS.items():
            for pair in pairs:
                keys = {"language": language, "gold_label": pair.label, "sentence1": pair.first, "sentence2": pair.second}
                file.write(json.dumps({**keys, "genre": "x"}, ensure_ascii=False) + "\n")
    return [(path, None)]


def write_multinli(folder: Path) -> list[tuple[Path, str | None]]:
    files: list[tuple[Path, str | None]] = []
    for language, pairs in PAIRS.items():
        path = folder / f"multinli.train.{language}.tsv"
        rows = [[p.first, p.second, p.label.replace("contradiction", "contradictory")] for p in pairs]
        lines = ["\t".join(row) + "\n" for row in [["premise", "hypo", "label"], *rows]]
        path.write_text("\ufeff" + "".join(lines), encoding="utf-8")
        files.append((path, language))
    return files


XNLI_KEYS = {"language": "en", "gold_label": "neutral", "sentence1": "a", "sentence2": "b"}


@pytest.mark.parametrize("write", [write_xtreme, write_original, write_jsonl, write_multinli])
def test_every_layout_of_xnli_gives_the_same_pairs(write: Any, tmp_path: Path) -> None:
    read: dict[str, list[Pair]] = {}
    for path, language in write(tmp_path):
        read |= Xnli().read(path, language)
    assert read == PAIRS


def test_both_layouts_of_pawsx_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [["a b", "b a", "0"], ["c, d", "d und c", "1"]]
    (tmp_path / "x.tsv").write_text("\n".join("\t".join(row) for row in rows), encoding="utf-8")
    lines = [["id", "sentence1", "sentence2", "label"], *([str(i), *row] for i, row in enumerate(rows))]
    (tmp_path / "y.tsv").write_text("\n".join("\t".join(row) for row in lines) + "\n", encoding="utf-8")
    expected = {"de": [Pair("a b", "b a", "different"), Pair("c, d", "d und c", "paraphrase")]}
    assert PawsX().read(tmp_path / "x.tsv", "de") == PawsX().read(tmp_path / "y.tsv", "de") == expected


def test_real_files_are_read_to_the_last_line(real_data: Path) -> None:
    for language in ("en", "fr", "sw", "zh"):
        pairs = Xnli().read(real_data / f"xnli/dev-{language}.tsv", language)[language]
        assert len(pairs) == 2490
        assert [pair.label for pair in pairs].count("neutral") == 830
        assert Xnli().trivial_score(pairs) == pytest.approx(100 / 3)
    assert len(PawsX().read(real_data / "pawsx/dev-zh.tsv", "zh")["zh"]) == 2000
    original = PawsX().read(real_data / "pawsx/original/test-de.tsv", "de")["de"]
    assert len(original) == 2000
    assert {pair.label for pair in original} == {"different", "paraphrase"}


@pytest.mark.parametrize(
    ("task", "name", "content", "language", "expected"),
    [
        (
            Xnli(),
            "a.tsv",
            "p\th\tneutral\np\th\n",
            "en",
            "a.tsv, line 2: 2 columns; expected 3, tab-separated: premise",
        ),
        (Xnli(), "a.tsv", "p\th\tneutral\np\th\tmaybe\n", "en", "a.tsv, line 2: label 'maybe'; expected one of entailment,"),
        (Xnli(), "a.tsv", "p\th\tneutral\n", None, "a.tsv: neither name nor content tells the language; name it"),
        (Xnli(), "a.tsv", "language\tgold_label\tsentence1\n", None, "a.tsv, line 1: no column sentence2; expected a head"),
        (
            Xnli(),
            "a.jsonl",
            '{"language": "en"}\n',
            None,
            "a.jsonl, line 1: expected a JSON object with language",
        ),
        (Xnli(), "a.jsonl", "[1]\n", None, "a.jsonl, line 1: expected a JSON object"),
        (Xnli(), "a.jsonl", "[" * 10**5, None, "a.jsonl, line 1: expected a JSON object"),
        *(
            (Xnli(), "a.jsonl", json.dumps({**XNLI_KEYS, key: value}), None, "line 1: expected a JSON object with language")
            for key, value in [("sentence1", 5), ("language", ["en"]), ("gold_label", None), ("sentence2", "\ud800")]
        ),
        (PawsX(), "a.tsv", "a\tb\t1\n\n", "de", "a.tsv, line 2: 1 columns; expected 3"),
        (
            PawsX(),
            "a.tsv",
            "id\tsentence1\tsentence2\tlabel\n1\ta\tb\t2\n",
            "de",
            "a.tsv, line 2: label '2'; expected one of 0, 1",
        ),
        (PawsX(), "a.tsv", b"a\tb\t1\na\t\xe9\t1\n", "de", "a.tsv, line 2: not UTF-8"),
    ],
)
def test_a_broken_line_is_named(
    task: Task[Pair], name: str, content: str | bytes, language: str | None, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        task.read(tmp_path / name, language)
    assert expected in str(caught.value)


def test_paper_defaults_by_setting_and_size() -> None:
    transfer, train_all = (
        Xnli().defaults("transfer", "large"),
        [Xnli().defaults("translate-train-all", s) for s in ("base", "large")],
    )
    assert (transfer.batch_size, transfer.epochs, transfer.max_length, transfer.learning_rate) == (32, 5, 256, 5e-5)
    assert transfer.layer_decay == 0.8
    assert [(d.batch_size, d.epochs) for d in train_all] == [(128, 2), (128, 1)]
    pawsx = PawsX().defaults("transfer", "base")
    assert (pawsx.batch_size, pawsx.epochs, pawsx.max_length, pawsx.learning_rate) == (32, 5, 128, 2e-5)
    assert (pawsx.adam_epsilon, pawsx.clip, pawsx.warmup_share) == (1e-6, 1.0, 0.1)


def test_classes_are_numbered_by_name_in_features_and_scores(tiny_encoder: Path) -> None:
    order = ("contradiction", "entailment", "neutral")  # not the benchmark's own
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    setup = Setup(tokenizer, SimpleNamespace(max_length=12), order, "transfer")
    pairs = [Pair("one " * 30, "two", "neutral"), Pair("three", "four", "contradiction"), Pair("five", "six", "entailment")]
    features = Xnli().features(pairs, setup, with_answers=True)
    assert [feature["labels"] for feature in features] == [2, 0, 1]
    assert len(features[0]["input_ids"]) == 12
    assert features[0]["input_ids"][-3:] == [*tokenizer("two")["input_ids"][1:]][-3:], "the longer sentence is cut"
    assert "labels" not in Xnli().features(pairs, setup, with_answers=False)[0]
    logits = np.eye(3)[[2, 0, 2]]
    scored = Xnli().score(pairs, features, logits, setup, "en")
    assert scored.predictions == ["neutral", "contradiction", "neutral"]
    assert scored.metrics == {"accuracy": pytest.approx(200 / 3)}
