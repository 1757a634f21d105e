"""Checkpoints and probes of release 0.1 load: its one head was called `head`, its losses were numbered by objective."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ernie_m.base.config import build, to_mapping
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.runs.fragments import FragmentReader, fragments_of, replicated_parts, write_tensors
from ernie_m.runs.run_folder import identity_of
from ernie_m.training.checkpoint_probe import probe_loss
from ernie_m.training.recipe import TrainingConfig

if TYPE_CHECKING:
    from conftest import DocumentsOf, EncoderOf

OF_0_1 = ["MMLM", "TLM", "CAMLM", "BTMLM", "CLM"]


def test_weights_under_the_old_names_fill_the_model(encoder_of: EncoderOf, tmp_path: Path) -> None:
    saved, model = encoder_of(seed=1, heads=None), encoder_of(seed=2, heads=None)
    fragments = fragments_of(replicated_parts(saved, 0, 1), torch.optim.AdamW(saved.parameters()))
    tensors = {key.replace("heads.token.", "head."): view for f in fragments for key, view in f.tensors()}
    assert any(key.startswith("head.decoder_bias@") for key in tensors)
    write_tensors(tmp_path / "rank_00000.safetensors", tensors)
    FragmentReader(tmp_path).fill_weights(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(saved.named_parameters())[name]), name


def test_a_probe_under_the_old_names_gives_the_same_loss(encoder_of: EncoderOf, documents_of: DocumentsOf) -> None:
    model = encoder_of(seed=1)
    batch = pack([PackedRow(documents_of(CAMLM)[0], OBJECTIVE_INDEX["CAMLM"], 0)], 64)
    probe = {name: torch.from_numpy(array) for name, array in vars(batch).items() if isinstance(array, np.ndarray)}
    old = {name.replace("loss_N", "objective_N"): tensor for name, tensor in probe.items()}
    assert probe_loss(model, old, torch.device("cpu")) == probe_loss(model, probe, torch.device("cpu"))


@pytest.mark.parametrize("name", OF_0_1)
def test_losses_of_0_1_keep_their_numbers(name: str) -> None:
    assert LOSS_INDEX[name] == OBJECTIVE_INDEX[name] == list(OBJECTIVES).index(name) == OF_0_1.index(name)


def test_a_run_of_0_1_is_known_again() -> None:
    """Its identity marks its checkpoints: a key that was added since must be left out of it where it has no value."""
    recipe = {
        "stages": [{"steps": 3, "rows": {"MMLM": 1, "CAMLM": 2}}, {"steps": 2, "rows": {"BTMLM": 1}}],
        "seed": 7,
        "batch": {"rows_per_step": 8, "micro_batch_rows": 2},
    }
    config = build(TrainingConfig, recipe, "the test")
    folder = {"folder": "d", "manifest_sha256": "1", "tokenizer_sha256": "2", "languages": ["en"], "data_order": 3}
    sections = {"model": to_mapping(config.shape.resolved(3000, 12)), "data_identity": folder}
    assert identity_of(to_mapping(config) | sections) == "1c6a166c07509c43"


def test_what_a_later_key_changes_is_part_of_a_runs_identity() -> None:
    recipe = {"stages": [{"steps": 3, "rows": {"TLM": 1}}], "data_identity": {}}
    changes = [{}, {"data": {"positions": "restarting"}}, {"optimizer": {"schedule": "inverse_sqrt"}}]
    assert len({identity_of(recipe | change) for change in changes}) == 3
    kept = {"data": {"positions": "running"}, "optimizer": {"schedule": "linear"}, "model": {"heads": None}}
    assert identity_of(recipe | kept) == identity_of(recipe | {"data": {}, "optimizer": {}, "model": {}})
