"""What benchmarks/gpu_speed.py compares is the same thing each time, and a measurement that fails ends no other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import apart
import gpu_speed_runs

from ernie_m.models.attention import attend, build_mask
from ernie_m.rows.objective import Objective

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf


def test_pieces_between_borders_are_the_attention_of_objectives_that_tell_documents_apart_alone(
    objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(objective, documents_of(objective))
    assert gpu_speed_runs.separates_documents_alone(batch) == (objective.name in ("MMLM", "TLM", "BTMLM", "AlignLM"))
    if not gpu_speed_runs.separates_documents_alone(batch):
        return
    B, S = batch.document_BS.shape
    query, key, value = torch.randn(3, B, 4, S, 16, generator=torch.Generator().manual_seed(0))
    expected = attend(query, key, value, build_mask("sdpa", batch), 0.0)
    starts, longest = gpu_speed_runs.borders(batch)
    assert starts[0] == 0
    assert starts[-1] == B * S
    assert longest == int(starts.diff().max())
    flat = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]  # [B S, heads, width]
    pieces = [
        F.scaled_dot_product_attention(*(tensor[first:last].transpose(0, 1) for tensor in flat)).transpose(0, 1)
        for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False)
    ]
    found = torch.cat(pieces).unflatten(0, (B, S)).transpose(1, 2)
    real = (batch.document_BS >= 0)[:, None, :, None]
    torch.testing.assert_close(found * real, expected * real)
    assert len(pieces) == 5 + B  # documents of conftest's two rows, and the padding of each


def test_all_heads_have_the_same_loss_and_the_same_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    sizes = ((20, 16), (301, 16), (301,))
    labels, results = torch.randint(4, 301, (20,), generator=rng), {}
    exact = [torch.randn(size, generator=rng) for size in sizes]
    for name, function in gpu_speed_runs._head_functions():
        leaves = [tensor.clone().requires_grad_() for tensor in exact]
        total = function(*leaves, labels).float().sum()
        total.backward()
        results[name] = [total.detach(), *(leaf.grad for leaf in leaves)]
    plain, *others = results.values()
    assert len(others) >= len(gpu_speed_runs.KEPT_LOGITS) + 2
    for found in others:
        for mine, expected in zip(found, plain, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert min(gradient.abs().max() for gradient in plain[1:]) > 0.1


def test_too_little_memory_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    def hungry(setup: dict[str, int], more: int) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {setup['rows'] + more} GiB. More advice.")

    apart.answer('[{"rows": 3}, "hungry", 4]', {"hungry": hungry}, dict)
    assert capsys.readouterr().out == '{"out_of_memory": "CUDA out of memory. Tried to allocate 7 GiB"}\n'
    found = gpu_speed_runs.timed(lambda: hungry({"rows": 3}, 4), tries=1)
    assert found == {"problem": "out of memory"}


def test_what_a_measurement_started_ends_with_its_time(tmp_path: Path) -> None:
    """A measurement that waits for a process of its own: killed alone, it would leave that one on the device."""
    sleep, started = "[sys.executable, '-c', 'import time; time.sleep(60)']", tmp_path / "pid"
    waits = f"import subprocess, sys; p = subprocess.Popen({sleep}); open({str(started)!r}, 'w').write(str(p.pid)); p.wait()"
    with pytest.raises(subprocess.TimeoutExpired):
        apart.finished([sys.executable, "-c", waits], timeout=3.0)
    deadline, pid = time.monotonic() + 10, int(started.read_text())
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
    done = apart.finished([sys.executable, "-c", "print(7); raise SystemExit(3)"], timeout=60)
    assert (done.returncode, done.stdout) == (3, "7\n")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
