"""What benchmarks/gpu_speed.py measures beside training steps: attention, the head, a run in fp16. On CPU small sizes."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from apart import OUT_OF_MEMORY, finished
from torch import Tensor
from training_speed_runs import DEVICE, DS_CONFIGS, DTYPES, Result, Setup, mark, seconds_between

from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models import loss
from ernie_m.models.attention import attend, build_mask, choose_attention
from ernie_m.planning.memory import MicroBatch, Sharding, peak, total
from ernie_m.planning.plan import bucket_elements
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.dataloader import to_device
from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.metrics import read_metrics
from ernie_m.training.gradient_exchange import BUCKET_ELEMENTS

ROOT = Path(__file__).resolve().parents[1]
ON_GPU = DEVICE.type == "cuda"
MASK_RATE, HEAD = 0.15, 64
SPECIAL_IDS = 4  # labels are pieces
KEPT_LOGITS = (28, 30, 32)  # powers of two, for ernie_m.models.loss.MAX_LOGITS
FP16_ON_CPU = (
    "from deepspeed.accelerator import get_accelerator as accelerator;"
    "type(accelerator()).is_fp16_supported = lambda self: True;"  # DeepSpeed refuses it there unless told that it is
    "from ernie_m.commands.pretrain import main; main()"
)


def timed(work: Callable[[], Any], tries: int) -> Result:
    """Median seconds of `work`, what it returned last, and on a GPU, behind a first time, the bytes that it took beside
    those taken before. On CPU it runs once."""
    try:
        if ON_GPU:
            work()
            torch.cuda.reset_peak_memory_stats()
        before, marks, value = torch.cuda.memory_allocated() if ON_GPU else 0, [], None
        for _ in range(tries if ON_GPU else 1):
            begin = mark()
            value = work()
            marks.append((begin, mark()))
        memory = torch.cuda.max_memory_allocated() - before if ON_GPU else 0
        return {"seconds": statistics.median(seconds_between(marks)), "memory": memory, "value": value}
    except torch.OutOfMemoryError:
        return {"problem": OUT_OF_MEMORY.replace("_", " ")}
    except Exception as error:  # a kernel that does not take these sizes is a result, not the end
        return {"problem": f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"}


def planned(setup: Setup, result: Result) -> float:
    """Bytes that the planner expects at the peak of a step of training_speed_runs.ours in bf16."""
    bucket = bucket_elements(DS_CONFIGS).get((setup.zero_stage, "bf16"), BUCKET_ELEMENTS)
    sharding = Sharding(1, setup.zero_stage, DTYPES["bf16"].itemsize, bucket, ON_GPU)
    batch = MicroBatch(setup.rows, setup.length, max(result["predicted"]), accumulates=False)
    model = setup.model(CorpusFolder(setup.data))
    return total(peak(model, sharding, batch, sdpa=result["attention"] == "sdpa")[1])


# -- attention -----------------------------------------------------------------------------------------------------


def attention(setup: Setup) -> Result:
    """Forward and backward of one layer's attention (on CPU, where flex has no backward, forward alone) over real rows.

    "rows": a result for each objective (BTMLM's first stage is one of its own), number of rows and backend, with the largest
    difference of its output from sdpa's at real tokens; "choice": what `auto` takes here, and why.
    """
    found = []
    for objective, rows in itertools.product(("MMLM", "TLM", "CAMLM", "BTMLM"), sorted({-(-setup.rows // 4), setup.rows})):
        data = replace(setup, rows=rows).pretraining_data(objective)
        batch = to_device(data.step(0, 0, 1, rows)[0], DEVICE)
        stages = {objective: batch}
        if batch.generation is not None:
            first = replace(batch, reads_BS=batch.generation.reads_RS)
            stages = {"BTMLM stage 1": first, "BTMLM stage 2": batch}
        for name, stage in stages.items():
            found += [{"objective": name, "rows": rows, **result} for result in _backends(setup, stage)]
    return {"rows": found, "choice": str(choose_attention("auto", DEVICE))}


def _backends(setup: Setup, batch: PackedBatch) -> Iterator[Result]:
    """Each backend on these rows: `mask_seconds` of building its mask, once a micro-batch, and those of one layer."""
    B, S = batch.document_BS.shape
    rng = torch.Generator(DEVICE).manual_seed(0)
    shape = (B, S, 3, setup.hidden // HEAD, HEAD)
    qkv = torch.randn(shape, generator=rng, device=DEVICE).to(torch.bfloat16).requires_grad_(ON_GPU)
    weight = torch.randn(B, setup.hidden // HEAD, S, HEAD, generator=rng, device=DEVICE).to(torch.bfloat16)
    real = (batch.document_BS >= 0)[:, None, :, None]
    expected: Tensor | None = None
    ways: dict[str, Callable[[], Any]] = {name: partial(build_mask, name, batch) for name in ("sdpa", "flex")}
    if separates_documents_alone(batch):
        ways["varlen"] = partial(borders, batch)
    for name, make in ways.items():
        if name == "varlen" and not ON_GPU:
            yield {"backend": name, "problem": "flash attention needs CUDA"}
            continue
        mask_seconds, mask = timed(make, setup.steps).get("seconds"), make()
        forward = partial(_varlen if name == "varlen" else _attended, qkv, mask)

        def both(forward: Callable[[], Tensor] = forward) -> Tensor:
            out = forward()
            if ON_GPU:
                (out * weight).sum().backward()
                qkv.grad = None
            return out.detach()

        result = {"backend": name, "mask_seconds": mask_seconds, **timed(both, setup.steps)}
        if "problem" not in result:
            out = result.pop("value") * real
            expected = out if expected is None else expected
            result["difference"] = float((out - expected).abs().max())
        yield result


def _attended(qkv: Tensor, mask: Any) -> Tensor:
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # as ernie_m.models.model.Layer has them
    return attend(query, key, value, mask, 0.0)


def _varlen(qkv: Tensor, mask: tuple[Tensor, int]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = mask
    query, key, value = (part.flatten(0, 1) for part in qkv.unbind(2))
    out: Any = varlen_attn(query, key, value, starts, starts, longest, longest)
    return out.unflatten(0, qkv.shape[:2]).transpose(1, 2)


def borders(batch: PackedBatch) -> tuple[Tensor, int]:
    """Where documents start in B x S, and the end, int32 [documents + 1]; and the longest. Padding is a document too."""
    document_BS = batch.document_BS
    is_first = torch.ones_like(document_BS, dtype=torch.bool)
    is_first[:, 1:] = document_BS[:, 1:] != document_BS[:, :-1]
    starts = torch.cat([is_first.flatten().nonzero()[:, 0], torch.tensor([document_BS.numel()], device=document_BS.device)])
    return starts.to(torch.int32), int(starts.diff().max())


def separates_documents_alone(batch: PackedBatch) -> bool:
    """Whether every real token reads all of its document, as kernels for variable lengths take for granted."""
    document_BS = batch.document_BS
    same = document_BS[:, :, None] == document_BS[:, None, :]
    is_real = (document_BS >= 0)[:, :, None]
    return bool(torch.equal(build_mask("sdpa", batch)[:, 0] & is_real, same & is_real))


# -- the head ------------------------------------------------------------------------------------------------------


def heads(setup: Setup) -> Result:
    """Forward and backward of the output matrix's cross entropy in bf16, at a quarter and all of the predicted positions."""
    model, found = setup.model(CorpusFolder(setup.data)), []
    rng = torch.Generator(DEVICE).manual_seed(0)
    most = round(MASK_RATE * setup.rows * setup.length)
    bfloat = {"generator": rng, "device": DEVICE}
    weight = (0.02 * torch.randn(model.vocab, setup.hidden, **bfloat)).to(torch.bfloat16).requires_grad_()
    bias = torch.zeros(model.vocab, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    for num_positions in (-(-most // 4), most):
        hidden = torch.randn(num_positions, setup.hidden, **bfloat).to(torch.bfloat16).requires_grad_()
        labels = torch.randint(SPECIAL_IDS, model.vocab, (num_positions,), **bfloat)
        expected = None
        for name, function in _head_functions():

            def both(function: Callable[..., Tensor] = function) -> Tensor:
                total = function(hidden, weight, bias, labels).float().sum()  # noqa: B023 - called before the next ones
                total.backward()
                hidden.grad = weight.grad = bias.grad = None  # noqa: B023
                return total.detach()

            result = {"positions": num_positions, "head": name, **timed(both, setup.steps)}
            if "problem" not in result:
                total = float(result.pop("value"))
                expected = total if expected is None else expected
                result["difference"] = abs(total / expected - 1)
            found.append(result)
    return {"rows": found}


def _head_functions() -> Iterator[tuple[str, Callable[..., Tensor]]]:
    yield "plain cross entropy, fp32 logits", loss.plain_nll
    for power in KEPT_LOGITS:
        yield f"ours, up to 2^{power} logits kept", partial(_ours, 1 << power)
    for reduction in ("none", "sum"):
        yield f"torch's linear_cross_entropy, {reduction}", partial(_torchs, reduction)
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError:
        return
    yield (
        "Liger's, sum",
        lambda hidden, weight, bias, labels: liger_fused_linear_cross_entropy(hidden, weight, labels, bias, reduction="sum"),
    )


def _ours(kept: int, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    with patch.object(loss, "MAX_LOGITS", kept):  # backward goes by what forward did
        return loss.predicted_nll(hidden, weight, bias, labels)


def _torchs(reduction: str, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction=reduction, options=options)


# -- fp16 ----------------------------------------------------------------------------------------------------------


def fp16(setup: Setup, steps: int, timeout: float | None, environment: dict[str, str]) -> Result:
    """A pre-training from scratch by launcher/pretrain.py, recipe base (or smaller, where `setup` is), all objectives.

    Mean loss of its first and last tenth, updates that were left out, loss scales on the way, real tokens a second.
    """
    layers, hidden = min(12, setup.layers), min(768, setup.hidden)
    rows = max(4, setup.rows // 2)
    overrides = [
        f"stages=[{{steps: {steps}, rows: {{MMLM: 1, TLM: 1, CAMLM: 1, BTMLM: 1}}}}]",
        f"model={{num_layers: {layers}, hidden_size: {hidden}, num_heads: {hidden // HEAD}, ffn_size: {4 * hidden}}}",
        f"data.sequence_length={setup.length}",
        f"batch={{rows_per_step: {rows}, micro_batch_rows: {rows}}}",
        f"optimizer={{peak_learning_rate: 2.0e-4, warmup_steps: {steps // 10}}}",
        "engine={zero_stage: 1, precision: fp16}",
        f"output={{log_every: {max(1, steps // 50)}, save_every: {steps}, evaluate_every: 0}}",
    ]
    command = [sys.executable, "launcher/pretrain.py"] if ON_GPU else [sys.executable, "-c", FP16_ON_CPU]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        wanted = ["--recipe", "base", "--data", setup.data, "--run", str(run), *overrides]
        done = finished([*command, *wanted], timeout, cwd=ROOT, env=environment)
        if done.returncode:
            return {"problem": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
        lines = [line for line in read_metrics(run) if "loss/MMLM" in line]
        manifest = json.loads((committed_folders(run / "checkpoints")[0] / "manifest.json").read_text(encoding="utf-8"))
    losses = [statistics.mean(v for k, v in line.items() if k.startswith("loss/") and k.count("/") == 1) for line in lines]
    tenth = -(-steps // 10)
    return {
        "first": statistics.mean(losses[:tenth]),
        "last": statistics.mean(losses[-tenth:]),
        "skipped": steps - manifest["state"]["counters"]["updates"],
        "scales": [line["loss_scale"] for line in lines if "loss_scale" in line],
        "rate": statistics.median(line["tokens_per_second"] for line in lines[tenth:]),
    }
