"""Hyperparameters in the Trainer's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import TrainingArguments

from ernie_m.downstream.training import TrainerOptions, training_arguments
from ernie_m.downstream.xnli import Xnli


@pytest.mark.parametrize(("micro", "expected"), [(0, 32), (4, 4), (64, 64)])
def test_no_more_examples_are_scored_at_a_time_than_asked(micro: int, expected: int, tmp_path: Path) -> None:
    hyperparameters = replace(Xnli().defaults("transfer", "base"), batch_size=128, micro_batch=micro)
    arguments = training_arguments(Xnli(), hyperparameters, tmp_path, 0, TrainerOptions("fp32"))
    assert arguments.per_device_eval_batch_size == expected


@pytest.mark.parametrize("visible", [0, 1, 8])
def test_a_single_process_keeps_the_batch_whatever_number_of_gpus_it_sees(
    visible: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TrainingArguments.__post_init__

    def with_gpus(self: TrainingArguments) -> None:
        made(self)
        self._n_gpu = visible

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_gpus)
    task = Xnli()
    hyperparameters = task.defaults("transfer", "base")
    arguments = training_arguments(task, hyperparameters, tmp_path, 0, TrainerOptions("fp32"))
    assert arguments.n_gpu <= 1
    assert arguments.train_batch_size * arguments.gradient_accumulation_steps == hyperparameters.batch_size
