"""A run that goes on on a GPU; each objective on it beside the CPU; attention of every shape that a stage 1 can have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.models.attention import choose_attention
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, LOSS_INDEX
from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.metrics import read_metrics
from tests.integration.conftest import ROOT, data, embedded, environment

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
__all__ = ["data", "embedded"]  # fixtures
S = 256
STEPS = 12


def train(data: Path, run: Path, *more: str, ranks: int = 1) -> None:
    start = [sys.executable, "launcher/pretrain.py"]
    if ranks > 1:
        start = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks), "launcher/pretrain.py"]
    every = "evaluate_every: 0, save_every: 6, log_every: 1"
    recipe = [f"stages=[{{steps: {STEPS}, rows: {{MMLM: 1, CAMLM: 1, BTMLM: 2}}}}]", f"output={{{every}}}", *more]
    command = [*start, "--recipe", "demo", "--data", str(data), "--run", str(run), *recipe]
    done = subprocess.run(command, cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=400)
    assert done.returncode in (0, 75), done.stderr


def losses(run: Path) -> list[float]:
    return [line["loss/CAMLM"] for line in read_metrics(run) if "loss/CAMLM" in line]


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp16", 1), ("bf16", 1), ("bf16", 2), ("bf16", 3)])
def test_a_run_resumed_on_a_gpu_goes_on_as_an_undisturbed_one(
    precision: str, stage: int, data: Path, tmp_path: Path
) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("no bf16 on this card")
    how = [f"engine.precision={precision}", f"engine.zero_stage={stage}"]
    train(data, tmp_path / "whole", *how)
    train(data, tmp_path / "cut", *how)
    newest, older = committed_folders(tmp_path / "cut" / "checkpoints")[:2]
    for file in [*newest.rglob("*")]:
        file.unlink()
    newest.rmdir()
    (tmp_path / "cut" / "COMPLETE").unlink()
    train(data, tmp_path / "cut", *how)
    again = committed_folders(tmp_path / "cut" / "checkpoints")[0]
    assert again.name == newest.name
    assert again.name != older.name
    updates = json.loads((again / "manifest.json").read_text())["state"]["counters"]["updates"]
    whole = committed_folders(tmp_path / "whole" / "checkpoints")[0]
    assert updates == json.loads((whole / "manifest.json").read_text())["state"]["counters"]["updates"]
    assert losses(tmp_path / "cut")[-1] == pytest.approx(losses(tmp_path / "whole")[-1], rel=2e-2)


@pytest.mark.parametrize("behind", ["true", "false"])
def test_a_checkpoint_written_in_the_background_is_one_that_was_waited_for(behind: str, data: Path, tmp_path: Path) -> None:
    """The probe is replayed when it is loaded: what was copied while the device worked is what the model was."""
    train(data, tmp_path / "run", f"output.save_in_background={behind}")
    folders = committed_folders(tmp_path / "run" / "checkpoints")
    assert len(folders) == 2
    for file in [*folders[0].rglob("*")]:
        file.unlink()
    folders[0].rmdir()
    (tmp_path / "run" / "COMPLETE").unlink()
    train(data, tmp_path / "run", f"output.save_in_background={behind}")


def test_an_objective_on_a_gpu_is_that_on_the_cpu(
    objective: Objective, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    host = batch_of(objective, documents_of(objective), S)
    found = []
    for device in ("cpu", "cuda"):
        model = encoder_of(num_layers=2, hidden_size=128, max_positions=S + 2, attention="sdpa").to(device)
        batch = fill_placeholders(model, host.map(lambda tensor, d=device: tensor.to(d)))
        loss, nll_M = model(batch, LossRequest(torch.ones(len(LOSS_INDEX), device=device), 1))
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        found.append((float(loss), float(nll_M.sum()), gradient))
    assert found[1][:2] == pytest.approx(found[0][:2], rel=2e-3)
    assert torch.nn.functional.cosine_similarity(found[0][2], found[1][2], dim=0) > 0.999


def test_stage_1_of_any_number_of_rows_compiles_nothing(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    if (choice := choose_attention("auto", torch.device("cuda", 0))).value != "flex":
        pytest.skip(str(choice))
    model = encoder_of(num_layers=2, hidden_size=128, max_positions=S + 2)
    model.attention_choice = choice
    model.cuda()
    counters = torch._dynamo.utils.counters
    documents = documents_of(BTMLM)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        model.compile_for(batch_of(BTMLM, documents, S).map(lambda tensor: tensor.cuda()))
        before = counters["stats"]["unique_graphs"]
        for num_rows in range(1, 13):
            rows = [documents[i % 2] for i in range(num_rows)]
            fill_placeholders(model, batch_of(BTMLM, rows, S).map(lambda tensor: tensor.cuda()))
        batch = batch_of(BTMLM, documents, S).map(lambda tensor: tensor.cuda())
        loss, _ = model(batch, LossRequest(torch.ones(len(LOSS_INDEX), device="cuda"), 1))
        loss.backward()
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before, "compile_for had made what a step needs"


def test_attention_dropout_trains_with_whatever_auto_takes(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", "model.attention_dropout=0.1", "model.attention=auto")
    assert len(losses(tmp_path / "run")) == STEPS


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_two_gpus_with_NCCL_and_gloo_train_as_one(data: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        train(data, tmp_path / str(ranks), "model.dropout=0.0", "engine.precision=fp32", ranks=ranks)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-2)
