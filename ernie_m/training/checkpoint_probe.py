"""A short row kept with each checkpoint, and its loss. Computed again after loading, it tells whether the model is the same.

Hashes prove that the files are those that were written. The probe proves that what was read from them is the model that
was trained: with this number of ranks, in this ZeRO stage, on this machine. It has no dropout, and every rank computes all
of it.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.models.pretraining import without_training
from ernie_m.rows.batch import ARRAYS, Document, LossRequest, PackedBatch
from ernie_m.rows.dataloader import PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.packing import PackedRow, in_order_of_heads, pack, sources_of, with_predictions

OLD_NAMES = {"objective_N": "loss_N"}  # of 0.1, where each objective had one loss
POSITIONS = 32
MOST_PREDICTED = 4  # tokens of each head: their logits over the whole vocabulary are what costs
SOURCES, NUM_SOURCES = "sources_P", "num_sources_N"  # names in the stored probe
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}  # relative; other GPUs and kernels round differently


def make_probe(data: PretrainingData, step: int) -> dict[str, Tensor]:
    """A short row as tensors: the shortest documents of the first or the last row of a global step, at least one.

    Its length is a multiple of POSITIONS and as small as possible, since training waits for it. Placeholders stay masks. If
    neither row predicts anything, the other rows of the step are tried. Raises InputError when no row does.
    """
    addresses = data.schedule.rows_of_step(step)
    outer, inner = [addresses[0], addresses[-1]], addresses[1:-1]
    found = list(filter(_documents, map(data.row, outer))) or list(islice(filter(_documents, map(data.row, inner)), 1))
    if not found:
        raise InputError(
            f"{data.folder.folder}: no row of step {step} holds a token to predict, so that nothing is trained there and no "
            f"checkpoint could be proved; expected text in each of its {len(addresses)} rows. Look at them with "
            f"ernie-m inspect_step --step {step}, then rebuild the data or leave the step out (--skip_steps)"
        )
    row = min(found, key=lambda row: len(_documents(row)[0]))
    documents = _documents(row)
    ends = np.cumsum([len(document) for document in documents])
    num_documents = max(1, int((ends <= POSITIONS).sum()))
    short = PackedRow(documents[:num_documents], row.objective, row.metric)
    batch = pack([short], -(-short.least_length // POSITIONS) * POSITIONS)
    ends_N = np.cumsum([*batch.head_sizes.values()])
    firsts = [
        np.arange(end - size, end)[:MOST_PREDICTED] for end, size in zip(ends_N, batch.head_sizes.values(), strict=True)
    ]
    batch = with_predictions(batch, np.concatenate(firsts))
    arrays = {name: getattr(batch, name) for name in ARRAYS}
    if batch.sources is not None:
        arrays |= {SOURCES: batch.sources.positions_P, NUM_SOURCES: batch.sources.counts_N}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _documents(row: PackedRow) -> list[Document]:
    """The documents in which something is predicted, the shortest first."""
    return sorted((document for document in row.documents if len(document.predicted)), key=len)


def probe_loss(model: nn.Module, probe: dict[str, Tensor], device: torch.device) -> float:
    """Mean nll of the probe's predicted tokens, in nats. Under ZeRO-3 a collective."""
    arrays = {OLD_NAMES.get(name, name): tensor.numpy() for name, tensor in probe.items()}
    _, sizes = in_order_of_heads(arrays["loss_N"])
    sources = sources_of(arrays.pop(SOURCES), arrays.pop(NUM_SOURCES), arrays["loss_N"]) if SOURCES in arrays else None
    batch = to_device(
        PackedBatch(**arrays, generation=None, head_sizes=sizes, sources=sources, back_translation=None), device
    )
    num_predicted = len(probe["labels_N"])
    num_metrics = int(probe["metric_N"].max()) + 1 if num_predicted else 1
    request = LossRequest(torch.zeros(len(LOSS_INDEX), device=device), num_metrics)
    with without_training(model):
        _, nll_M = model(batch, request)
    return float(nll_M.sum()) / max(1, num_predicted)


def read_probe(path: Path) -> dict[str, Tensor]:
    """The stored rows of a verified checkpoint. Raises InputError for a file that holds none."""
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def check_probe(saved: float, replayed: float, precision: str, folder: Path) -> None:
    """Raise InputError when the loaded model gives another loss than the saved one did."""
    both_finite = math.isfinite(saved) and math.isfinite(replayed)
    if both_finite and abs(saved - replayed) <= TOLERANCE[precision] * max(1.0, abs(saved)):
        return
    if not math.isfinite(saved) and not math.isfinite(replayed):
        return
    raise InputError(
        f"{folder}: its probe row gave a loss of {saved:.6f} when it was saved and gives {replayed:.6f} now, more than "
        f"{TOLERANCE[precision]:g} apart: what was loaded is not what was trained. Remove this checkpoint to go on from the "
        "one before, and report what changed (versions, cards, number of ranks)"
    )
