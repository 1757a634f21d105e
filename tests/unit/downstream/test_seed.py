"""A seed that was killed goes on from what is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from ernie_m.base.console import InputError
from ernie_m.downstream.seed import newest_whole_checkpoint, run_seed
from ernie_m.downstream.task_files import TaskData
from ernie_m.downstream.xnli import Xnli


def test_the_newest_checkpoint_that_is_whole_is_gone_on_from(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path) is None
    for step, best in ((5, 5), (20, 5), (100, 5), (200, 150)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = {"global_step": step, "best_model_checkpoint": str(tmp_path / f"checkpoint-{best}")}
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-300").mkdir()
    newest = newest_whole_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "checkpoint-100", "of 200 the best one is gone, 300 was not finished"


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "model.safetensors", "global_step8/zero_pp_rank_0.pt"])
@pytest.mark.parametrize("kept", [0, 0.4, 0.99])
def test_a_checkpoint_of_which_a_file_is_cut_is_passed_over(tmp_path: Path, name: str, kept: float) -> None:
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / name).parent.mkdir(parents=True)
        (save_file if name.endswith(".safetensors") else torch.save)({"a": torch.ones(500)}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_model_checkpoint": None}))
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    content = (tmp_path / "checkpoint-8" / name).read_bytes()
    (tmp_path / "checkpoint-8" / name).write_bytes(content[: int(len(content) * kept)])
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


SCORES: dict[str, Any] = {"seed": 1, "validation": 50.0, "test": {"en": {"accuracy": 50.0}, "de": {"accuracy": 40.0}}}


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"seed": 1},
        {**SCORES, "seed": 2},
        {**SCORES, "validation": "high"},
        {**SCORES, "test": {"en": {"accuracy": 50.0}}},
        {**SCORES, "test": {"en": {"accuracy": 50.0}, "de": {"f1": 40.0}}},
        {**SCORES, "test": {**SCORES["test"], "fr": {"accuracy": 40.0}}},
    ],
)
def test_the_result_of_a_seed_that_is_done_is_its_own_and_whole(tmp_path: Path, content: Any) -> None:
    data = TaskData([], {}, {"en": ["x"], "de": ["x"]}, {}, {}, {})

    def again() -> dict[str, Any]:
        return run_seed(Xnli(), data, cast(Any, None), cast(Any, None), tmp_path, 1, cast(Any, None))

    (tmp_path / "result.json").write_text(json.dumps(SCORES))
    assert again() == SCORES
    for broken in (json.dumps(content), "", "[" * 10**5):
        (tmp_path / "result.json").write_text(broken)
        with pytest.raises(InputError, match=r"result.json: not the scores of seed 1 .*; remove it, and this seed"):
            again()
