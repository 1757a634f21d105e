"""A seed that was killed goes on from what is whole."""

from __future__ import annotations

import json
from pathlib import Path

from ernie_m.downstream.seed import newest_whole_checkpoint


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
