"""A training state that knows no ranks: every parameter's fp32 weight and Adam moments, as pieces of flat tensors.

DeepSpeed's own files are pickles of what one ZeRO stage gave to one rank. Here each rank writes the fragments that it owns
as safetensors named `<parameter>@<first element>:<kind>`. A reader takes the elements it needs from the files that have
them. So a checkpoint of any number of ranks and any ZeRO stage loads on any other without conversion. Nothing is unpickled,
and an export reads the same files.

1. `fragments_of` makes views, not copies, of this rank's pieces, which ernie_m.training.deepspeed_adapter finds.
2. `write_tensors` writes safetensors piece by piece, hashing as it goes.
3. `FragmentReader` answers for any range of any parameter out of a folder of such files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.runs.checkpoint import STATE_PATTERN

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
MOST_HEADER_BYTES = 1 << 25  # a parameter takes 300
PIECE_BYTES = 1 << 24  # written, hashed and counted as progress at a time

OLD_PREFIXES = (("head.", "heads.token."),)
"""(of 0.1, present) beginnings of parameters' names: checkpoints of 0.1 load."""

_DTYPE_NAMES = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + n) of a flattened parameter: fp32 views [n] of its master weight and its Adam moments.

    `moments` is empty until the optimizer has made its first step.
    """

    name: str
    start: int
    weight: Tensor
    moments: dict[str, Tensor]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(key in the file, view) of each kind."""
        for kind, tensor in ((WEIGHT, self.weight), *self.moments.items()):
            yield f"{self.name}@{self.start}:{kind}", tensor


@dataclass(frozen=True)
class Part:
    """Elements [start, stop) of the flattened parameter `name`: in the flat fp32 `master`, which Adam has a state for, from
    its element `first` on."""

    name: str
    start: int
    stop: int
    master: Tensor
    first: int


def replicated_parts(
    model: nn.Module, rank: int, world_size: int, masters: Mapping[int, Tensor] | None = None
) -> Iterator[Part]:
    """The parts that this rank writes where every rank holds all parameters; together the ranks write each element once.

    `masters`: id of a parameter -> its fp32 master weights. Without it each parameter is its own master.
    """
    for name, parameter in model.named_parameters():
        master = parameter if masters is None else masters[id(parameter)]
        start, stop = (master.numel() * r // world_size for r in (rank, rank + 1))
        yield Part(name, start, stop, master, start)


def fragments_of(parts: Iterable[Part], adam: torch.optim.Optimizer) -> list[Fragment]:
    """Views of parts that are not empty, and of their moments in torch's optimizer."""
    fragments = []
    for part in parts:
        size = part.stop - part.start
        if size > 0:
            flat = {WEIGHT: part.master.data} | _moments(adam, part.master)
            views = {kind: tensor.view(-1)[part.first : part.first + size] for kind, tensor in flat.items()}
            fragments.append(Fragment(part.name, part.start, views.pop(WEIGHT), views))
    return fragments


def create_moments(adam: torch.optim.Optimizer, num_updates: int, masters: list[Tensor] | None = None) -> None:
    """Give a new Adam the state it would have after `num_updates` updates, with moments of zero, which are filled later.

    `masters` are the tensors that it updates (default: those of its groups). The count of updates lies where torch puts it:
    on the parameter's device for a fused or capturable optimizer, which refuses tensors on two devices, else on the host.
    """
    counts_on_device = bool(adam.defaults.get("fused") or adam.defaults.get("capturable"))
    groups_count = any("step" in group for group in adam.param_groups)  # as in DeepSpeed's FusedAdam
    for group in adam.param_groups:
        if groups_count:
            group["step"] = num_updates
    for master in masters or _of_groups(adam):
        state = adam.state[master]
        if "step" in state or not groups_count:
            device = master.device if counts_on_device else torch.device("cpu")
            state["step"] = torch.tensor(float(num_updates), device=device)
        for kind in MOMENTS:
            state.setdefault(kind, torch.zeros_like(master.data))


def num_updates(adam: torch.optim.Optimizer, masters: list[Tensor] | None = None) -> int:
    """Updates that Adam has counted: its bias correction depends on it."""
    counted = [group["step"] for group in adam.param_groups if "step" in group]
    states = [adam.state.get(master, {}) for master in masters or _of_groups(adam)]
    counted += [state["step"] for state in states if "step" in state]
    return int(counted[0]) if counted else 0


def _of_groups(adam: torch.optim.Optimizer) -> list[Tensor]:
    return [master for group in adam.param_groups for master in group["params"]]


def _moments(adam: torch.optim.Optimizer, master: Tensor) -> dict[str, Tensor]:
    """Both moments, or none before the first update; raises InputError for an optimizer that keeps others."""
    state = adam.state.get(master, {})
    missing = [kind for kind in MOMENTS if kind not in state]
    if state and missing:
        raise InputError(
            f"the optimizer {type(adam).__name__} keeps no {missing[0]}; expected one of Adam's kind in ds_configs/"
        )
    return {kind: state[kind] for kind in MOMENTS if state}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], on_progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write tensors as one fsynced safetensors file; returns its {"bytes", "sha256"}.

    The hash is of the bytes in memory, not of what the disk gives back: so it also finds a disk's errors.
    """
    header: dict[str, Any] = {}
    offset = 0
    for key, tensor in tensors.items():
        stop = offset + tensor.numel() * tensor.element_size()
        dtype = _DTYPE_NAMES[tensor.dtype]
        header[key] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        for piece in _pieces(len(head).to_bytes(8, "little") + head, tensors.values()):
            digest.update(piece)
            written = 0
            while written < len(piece):
                written += file.write(piece[written:])
            on_progress()
        os.fsync(file.fileno())
    return {"bytes": 8 + len(head) + offset, "sha256": digest.hexdigest()}


def _pieces(head: bytes, tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """The file's bytes; tensors come to the host a piece at a time."""
    yield memoryview(head)
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        at_a_time = PIECE_BYTES // tensor.element_size()
        for start in range(0, flat.numel(), at_a_time):
            yield memoryview(flat[start : start + at_a_time].cpu().numpy().data).cast("B")


def _present(name: str) -> str:
    """A parameter's name today."""
    return next((new + name.removeprefix(old) for old, new in OLD_PREFIXES if name.startswith(old)), name)


def _opened(path: Path) -> Any:
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MOST_HEADER_BYTES:
        raise InputError(f"{path}: a header of {header_bytes:,} bytes, expected at most {MOST_HEADER_BYTES:,}")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


class FragmentReader:
    """Any elements of any parameter, out of the files that all ranks of some run wrote into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Any] = [_opened(path) for path in sorted(folder.glob(STATE_PATTERN))]
        if not self._files:
            raise InputError(f"{folder}: no {STATE_PATTERN} files; expected a checkpoint of ours")
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, _, rest = key.rpartition("@")
                start, _, kind = rest.partition(":")
                shape = file.get_slice(key).get_shape()
                if len(shape) != 1 or not start.isdecimal() or len(start) > 18:
                    raise InputError(f"{folder}: holds {key[:80]!r} of shape {shape}; expected NAME@START:KIND, flat")
                (size,) = shape
                self._pieces.setdefault((_present(name), kind), []).append((int(start), int(start) + size, file, key))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    @property
    def names(self) -> list[str]:
        """Names of all parameters."""
        return sorted({name for name, _ in self._pieces})

    @property
    def has_moments(self) -> bool:
        return any(kind != WEIGHT for _, kind in self._pieces)

    def numel(self, name: str) -> int:
        """Elements of a parameter; raises InputError when the checkpoint does not hold it."""
        if (name, WEIGHT) not in self._pieces:
            raise InputError(f"{self.folder}: holds no parameter {name}; another model's checkpoint")
        return self._pieces[name, WEIGHT][-1][1]

    def read(self, name: str, kind: str, start: int, out: Tensor) -> None:
        """Fill `out` (flat) with elements [start, start + len(out)); raises InputError when some are missing."""
        self.numel(name)
        position, stop = start, start + out.numel()
        for first, last, file, key in self._pieces.get((name, kind), []):
            if last <= position or first >= stop:
                continue
            if first > position:
                break
            until = min(last, stop)
            piece = file.get_slice(key)[position - first : until - first]
            out[position - start : until - start].copy_(piece)
            position = until
        if position < stop:
            raise InputError(f"{self.folder}: elements from {position} on of {name} ({kind}) are in none of its files")

    def fill_weights(self, model: nn.Module) -> None:
        """Copy all weights into `model` (whole parameters, any dtype); raises InputError when names or sizes differ."""
        parameters = dict(model.named_parameters())
        if sorted(parameters) != self.names:
            differing = sorted(set(parameters) ^ set(self.names))
            raise InputError(f"{self.folder}: another model's checkpoint; {differing[0]} is on one side only")
        with torch.no_grad():
            for name, parameter in parameters.items():
                if self.numel(name) != parameter.numel():
                    raise InputError(f"{self.folder}: {name} has {self.numel(name)} elements, expected {parameter.numel()}")
                flat = torch.empty(parameter.numel())
                self.read(name, WEIGHT, 0, flat)
                parameter.copy_(flat.view_as(parameter))

    def fill(self, fragments: Iterable[Fragment]) -> None:
        """Fill this rank's own fragments: master weights and, where the checkpoint has them, moments."""
        for fragment in fragments:
            assert fragment.moments or not self.has_moments, "create_moments comes first"
            for kind, view in ((WEIGHT, fragment.weight), *fragment.moments.items()):
                host = torch.empty(view.numel())
                self.read(fragment.name, kind, fragment.start, host)
                view.copy_(host)
