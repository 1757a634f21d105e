"""Fine-tuning tells of a language that the encoder's tokenizer does not know."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.embedded import sentence
from ernie_m.corpus.unknown_pieces import Pieces, count_features
from ernie_m.downstream.classification import Pair
from ernie_m.downstream.task import Setup
from ernie_m.downstream.task_files import TaskData
from ernie_m.downstream.unknown import tell_unknown, tell_unknown_texts
from ernie_m.downstream.xnli import Xnli

AMHARIC = "ሁሉም ሰዎች ነጻ ሆነው ተወለዱ"


def test_each_language_has_its_share_and_a_bad_one_its_alarm(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    known = [Pair(sentence(1, i, "fr"), sentence(1, i, "fr"), "neutral") for i in range(20)]
    foreign = [Pair(AMHARIC, sentence(1, i, "fr"), "neutral") for i in range(20)]
    setup = Setup(tokenizer, Xnli().defaults("transfer", "base"), Xnli.classes, "transfer")
    tell_unknown(Xnli(), TaskData(known, {}, {"fr": known, "am": foreign}, {}, {"fr": 20}, {}), setup)
    tell_unknown_texts({"test am": [AMHARIC], "test fr": [pair.first for pair in known]}, tokenizer)
    told = capsys.readouterr().out.splitlines()
    shares = [line for line in told if line.startswith("unknown pieces, ")]
    alarms = [line for line in told if line.startswith("alarm: ")]
    assert len(shares) == len(alarms) == 2
    assert all("test am" in line for line in (*shares, *alarms))
    assert not any(" fr" in line for line in alarms)


def test_special_tokens_are_not_counted_and_words_without_letters_known_are(tokenizer: Any) -> None:
    feature = tokenizer(AMHARIC, AMHARIC)
    expected = [i for i in feature["input_ids"] if i not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
    pieces = count_features([feature], tokenizer)
    assert pieces == Pieces(len(expected), expected.count(tokenizer.unk_token_id))
    assert pieces.unknown == 2 * len(AMHARIC.split())
