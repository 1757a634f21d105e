"""A training state that knows no ranks: every parameter's fp32 weight and Adam moments, as pieces of flat tensors.

DeepSpeed's own files hold what one ZeRO stage gave to one rank, pickled. Here each rank writes the pieces that it owns
as safetensors named `<parameter>@<first element>:<kind>`; whoever reads takes the elements it wants from whichever files
have them. So a checkpoint of any number of ranks and any stage loads on any other, without conversion, nothing is
unpickled, and an export reads the same files.

1. `owned_fragments` finds this rank's pieces in DeepSpeed's optimizers: views, not copies.
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
from safetensors import safe_open
from torch import Tensor, nn

from ernie_m.console import InputError

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
STATE_PATTERN = "rank_*.safetensors"
PIECE_BYTES = 1 << 24  # written, hashed and counted as progress at a time

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


def owned_fragments(model: nn.Module, optimizer: Any, rank: int, world_size: int) -> list[Fragment]:
    """The fragments this rank answers for, together with the other ranks each element exactly once.

    `optimizer` is what deepspeed.initialize returned: torch's own (stage 0 in fp32), an optimizer of half precision
    (stage 0), or one of ZeRO 1, 2 or 3.
    """
    fragments = []
    masters = _replicated_masters(optimizer)
    state = getattr(optimizer, "optimizer", optimizer).state
    for name, parameter in model.named_parameters():
        if masters is not None:  # replicated: everybody has all of it and answers for a share
            master = masters.get(id(parameter), parameter)
            numel = master.numel()
            start, stop = numel * rank // world_size, numel * (rank + 1) // world_size
            flat, moments, first = master.data.view(-1), _moments(state, master), start
        elif hasattr(parameter, "ds_id"):  # ZeRO 3: equal parts of every parameter, the last ones padded
            index, first, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            master = optimizer.fp32_partitioned_groups_flat[index]
            numel = int(parameter.ds_numel)  # type: ignore[attr-defined]
            start, stop = min(rank * size, numel), min((rank + 1) * size, numel)
            flat, moments = master.data, _moments(state, master)
        else:  # ZeRO 1 and 2: a part of the concatenation of all parameters of a group
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:
                continue
            master = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            start, first = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
            stop = start + mapping.lp_fragment_address.numel
            flat, moments = master.data, _moments(state, master)
        if start < stop:
            views = {kind: tensor.view(-1)[first : first + stop - start] for kind, tensor in moments.items()}
            fragments.append(Fragment(name, start, flat[first : first + stop - start], views))
    return fragments


def create_moments(optimizer: Any, num_updates: int) -> None:
    """Give a fresh torch Adam the state it would have after `num_updates` updates, moments zero: to be filled."""
    inner = getattr(optimizer, "optimizer", optimizer)
    groups_count = any("step" in group for group in inner.param_groups)  # as in DeepSpeed's FusedAdam
    for group in inner.param_groups:
        if groups_count:
            group["step"] = num_updates
    for master in _masters(optimizer):
        state = inner.state[master]
        if "step" in state or not groups_count:
            state["step"] = torch.tensor(float(num_updates))
        for kind in MOMENTS:
            state.setdefault(kind, torch.zeros_like(master.data))


def num_updates(optimizer: Any) -> int:
    """Updates that Adam has counted: its bias correction depends on it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    counted = [group["step"] for group in inner.param_groups if "step" in group]
    counted += [inner.state[master]["step"] for master in _masters(optimizer) if "step" in inner.state.get(master, {})]
    return int(counted[0]) if counted else 0


def _masters(optimizer: Any) -> list[Tensor]:
    """The fp32 tensors that Adam has a state for. ZeRO 3 empties the groups of torch's optimizer between its steps."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(optimizer.fp32_partitioned_groups_flat)
    inner = getattr(optimizer, "optimizer", optimizer)
    return [master for group in inner.param_groups for master in group["params"]]


def _moments(state: Mapping[Any, Any], master: Tensor) -> dict[str, Tensor]:
    of_master = state.get(master, {})
    return {kind: of_master[kind] for kind in MOMENTS if kind in of_master}


def _replicated_masters(optimizer: Any) -> dict[int, Tensor] | None:
    """id of each parameter -> its fp32 master, where no ZeRO stage shards them; empty when it is its own master."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return {}
    if not hasattr(optimizer, "fp32_groups"):
        return None
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {id(p): master for half, full in pairs for p, master in zip(half, full, strict=True)}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], on_progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write tensors as one fsynced safetensors file; returns its {"bytes", "sha256"}.

    The hash is of what was meant to be written, not of what a disk gives back.
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


class FragmentReader:
    """Any elements of any parameter, out of the files that all ranks of some run wrote into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob(STATE_PATTERN))]
        if not self._files:
            raise InputError(f"{folder}: no {STATE_PATTERN} files; expected a checkpoint of ours")
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, _, rest = key.rpartition("@")
                start, _, kind = rest.partition(":")
                (size,) = file.get_slice(key).get_shape()
                self._pieces.setdefault((name, kind), []).append((int(start), int(start) + size, file, key))
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
