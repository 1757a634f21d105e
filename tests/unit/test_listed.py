"""Options that take a list with commas: an empty word is a slip of the hand, and no option passes over it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import options
from ernie_m.ablation.asked import plan_of
from ernie_m.ablation.fine_tuning import fine_tunings
from ernie_m.aligning import inputs
from ernie_m.base.command_line import listed
from ernie_m.base.console import InputError
from ernie_m.commands.evaluate import Commands
from ernie_m.commands.supervise import supervise
from ernie_m.commands.vocabulary import vocabulary
from ernie_m.corpus.gold_sets import gold_paths
from ernie_m.downstream import task_files

PAIRS_FILE = "pairs.tsv"
OPTIONS: dict[str, Callable[[str, str], object]] = {
    "only": lambda file, text: plan_of("data", "to", 1, 1, 2, only=text),
    "finetune": lambda file, text: fine_tunings(text, ""),
    "gold": lambda file, text: gold_paths(text),
    "pairs": lambda file, text: inputs.catalog_of(text, None, ("de", "en"), 0.1),
    "text": lambda file, text: inputs.catalog_of(file, text, ("de", "en"), 0.1),
    "dev_files": lambda file, text: task_files.named(text, (), "dev_files"),
    "reference": lambda file, text: Commands().translation(source=file, reference=text, hypothesis=file, to="en"),
    "trim": lambda file, text: vocabulary(model="m", to="to", trim=text),
    "unchanged": lambda file, text: vocabulary(model="m", to="to", unchanged=text),
    "export": lambda file, text: supervise(export=text),
    "exclude": lambda file, text: options.patterns("exclude", text),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("text", ["{word},,{word}", "{word},", ",", ""])
def test_an_empty_word_of_a_list_is_refused(option: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["ernie-m", "supervise", "--", "pretrain", "--recipe", "demo", "--run", "r"])
    Path(PAIRS_FILE).write_text("ja\tyes\nnein\tno\n", encoding="utf-8")
    Path("words.txt").write_text("ja ||| yes ||| 0-0\n", encoding="utf-8")
    Path("folder").mkdir()
    words = {"only": "mmlm", "finetune": "ner=folder", "gold": "g=words.txt", "text": f"de={PAIRS_FILE}", "export": "A_*"}
    given = text.format(word=words.get(option, PAIRS_FILE))
    with pytest.raises(InputError) as refused:
        OPTIONS[option](PAIRS_FILE, given)
    assert str(refused.value).startswith(f"--{option} {given}: expected ")


def test_words_of_a_list_stand_as_they_are_given_without_the_spaces_around_them() -> None:
    assert listed("only", " b , a,b ", "names") == ["b", "a", "b"]
    assert listed("only", None, "names") == []
    assert options.listed("lang", "de, en,de", "codes") == ["de", "en"]
