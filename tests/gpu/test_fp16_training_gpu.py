"""fp16 with dynamic loss scaling, a whole training of it, through the launcher."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.metrics import read_metrics
from tests.integration.conftest import ROOT, data, embedded, environment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
__all__ = ["data", "embedded"]  # fixtures
STEPS = 500


def test_500_steps_in_fp16_learn_and_leave_few_updates_out(data: Path, tmp_path: Path) -> None:
    more = [
        f"stages=[{{steps: {STEPS}, rows: {{MMLM: 1, TLM: 1, CAMLM: 4, BTMLM: 1}}}}]",
        "engine.precision=fp16",
        f"output={{log_every: 10, save_every: {STEPS}, evaluate_every: 0}}",
    ]
    command = [sys.executable, "launcher/pretrain.py", "--recipe", "demo", "--data", data, "--run", tmp_path / "run", *more]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(tmp_path / "run")
    losses = [line["loss/CAMLM"] for line in lines if "loss/CAMLM" in line]
    assert len(losses) == STEPS
    assert statistics.mean(losses[-50:]) < 0.8 * statistics.mean(losses[:50])
    scales = [line["loss_scale"] for line in lines if "loss_scale" in line]
    assert len(scales) == STEPS // 10
    assert min(scales) >= 2**4  # a scale that collapses halves step by step
    manifest = json.loads((committed_folders(tmp_path / "run" / "checkpoints")[0] / "manifest.json").read_text())
    assert manifest["state"]["counters"]["updates"] >= 0.95 * STEPS
