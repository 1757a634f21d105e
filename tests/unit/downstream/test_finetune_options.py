"""An option of `ernie-m finetune` that would do nothing is refused, before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import InputError
from ernie_m.commands.finetune import Commands

NOWHERE: dict[str, Any] = {"model": "/nowhere", "data": "/nowhere", "to": "/nowhere"}


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ((), {"seeds": "3"}, "--seeds 3: of a training, and --score_only has none; leave it out"),
        ((), {"zero_stage": 1}, "--zero_stage 1: of a training"),
        ((), {"keep_models": False}, "--nokeep_models: of a training"),
        (("max_length=64", "epochs=3"), {}, "epochs=3: of a training"),
    ],
)
def test_scoring_alone_takes_no_option_of_a_training(overrides: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Commands().xnli(*overrides, **NOWHERE, **options, score_only=True)


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ((), {"seeds": "3"}, "--seeds 3: for --setting hardest-negative; leave it out"),
        ((), {"zero_stage": 1}, "--zero_stage 1: for --setting hardest-negative"),
        ((), {"precision": "bf16"}, "--precision bf16: for --setting hardest-negative"),
        ((), {"keep_models": False}, "--nokeep_models: for --setting hardest-negative"),
        ((), {"untrained": False, "setting": "hardest-negative"}, "--nountrained: for --setting zero-shot; leave it out"),
        (("layer=1",), {"layer": 2, "setting": "hardest-negative"}, "--layer 2: also given as layer=...; expected it once"),
        ((), {"setting": "zeroshot"}, "--setting zeroshot: expected one of zero-shot, hardest-negative"),
    ],
)
def test_tatoeba_takes_the_options_of_its_setting(overrides: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Commands().tatoeba(*overrides, **{**NOWHERE, **options})


def test_the_layer_that_is_tuned_may_be_given_as_a_hyperparameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("ernie_m.downstream.experiment.check", lambda experiment: asked.append(experiment.overrides))
    tuned: dict[str, Any] = {**NOWHERE, "setting": "hardest-negative", "check": True}
    Commands().tatoeba("layer=1", **tuned)
    Commands().tatoeba(**tuned, layer=2)
    assert asked == [("layer=1",), ("layer=2",)]
