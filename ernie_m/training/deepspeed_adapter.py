"""The one module that imports DeepSpeed: what we read of its private parts, and what we switch off.

The training state lies in private attributes of DeepSpeed. Each is read through `taken`, and all of them once when an
engine is made. So a release that has other names is refused at the start, in one line with its version, and not hours
later by a checkpoint that lacks something. Batch, learning rate and clipping are "auto" in ds_configs/ and filled from the
recipe; the schedule is ours; ops are not compiled at start; its checkpoints are not used at all (ernie_m.runs.fragments).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.runs.fragments import Part, replicated_parts

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by deepspeed on import, which else warns at length
import deepspeed

REQUIREMENT = "deepspeed>=0.19.8,<0.20"  # as in setup.py
SCALER_KEYS = {True: ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis"), False: ("cur_scale",)}
"""The counters of a loss scaler, of a dynamic and of a static one."""


def prepare() -> None:
    """Call it before DeepSpeed makes a process group: its log becomes short, and it compiles nothing."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    taken(deepspeed.ops, "__compatible_ops__")["deepspeed_shm_comm"] = False  # else compiled for half a minute


def join_ranks(timeout: timedelta) -> None:
    """Make the process groups of the ranks that the environment names; `timeout` is that of their collectives.

    The group that ZeRO uses is DeepSpeed's copy of the default one, which would have torch's timeout: ten minutes with NCCL.
    """
    deepspeed.init_distributed(verbose=False, timeout=timeout)
    everybody = torch.distributed.new_group([*range(torch.distributed.get_world_size())], timeout=timeout)
    replace(deepspeed.utils.groups, "_WORLD_GROUP", everybody)


def taken(owner: Any, name: str) -> Any:
    """`owner.name`, a private attribute of DeepSpeed. Raises InputError, with its version, when it does not exist."""
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__name__
        raise InputError(
            f"deepspeed {deepspeed.__version__}: its {kind} has no {name!r}, which ernie_m.training.deepspeed_adapter "
            f"takes from it; install a release that was tried: pip install '{REQUIREMENT}'"
        ) from None


def replace(owner: Any, name: str, value: Any) -> None:
    """Set `owner.name`; raises InputError when there is nothing of that name to be replaced."""
    taken(owner, name)
    setattr(owner, name, value)


class DeepSpeed:
    """A model under `deepspeed.initialize`. `engine` is DeepSpeed's own, for its public methods; all else is read here."""

    def __init__(self, model: nn.Module, groups: list[dict[str, Any]], config: dict[str, Any], source: Path) -> None:
        """`config` was read from `source`. Raises InputError when DeepSpeed refuses it, or is an unknown release."""
        try:
            self.engine, self.optimizer, _, _ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
        except (ValueError, AssertionError, NotImplementedError, deepspeed.DeepSpeedConfigError) as error:
            what = " ".join(str(error).split())[:300]
            raise InputError(f"{source}: deepspeed {deepspeed.__version__} refuses this: {what}") from error
        self.is_plain = isinstance(self.optimizer, torch.optim.Optimizer)  # torch's own, no wrapper: stage 0 in fp32
        self._parts = _parts_of(self.optimizer)
        self._scaler = taken(self.optimizer, "loss_scaler") if _scales_losses(config) else None
        if self._scaler is not None and taken(self._scaler, "dynamic"):
            # Else it raises at its smallest scale, after 17 overflows in a row. The recipe says how many are too many.
            replace(self._scaler, "raise_error_at_min_scale", False)
        self._look_at_all()

    def _look_at_all(self) -> None:
        """Raise InputError now if something is missing that a later step or save needs."""
        self.parts(self.engine.module, 0, 1)
        self.num_parameters(self.engine.module)
        self.loss_scaler()
        assert self.masters
        assert self.adam.param_groups
        assert self.param_groups
        if not self.is_plain:
            taken(self.optimizer, "overflow")

    @property
    def adam(self) -> torch.optim.Optimizer:
        """The optimizer inside, which holds the moments."""
        return self.optimizer if self.is_plain else taken(self.optimizer, "optimizer")

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Where the learning rate is set."""
        return list(self.optimizer.param_groups if self.is_plain else taken(self.optimizer, "param_groups"))

    @property
    def masters(self) -> list[Tensor]:
        """The flat fp32 tensors that Adam has a state for. ZeRO 3 empties the groups of torch's optimizer between steps."""
        if self._parts is _zero_3:
            return list(taken(self.optimizer, "fp32_partitioned_groups_flat"))
        return [master for group in self.adam.param_groups for master in group["params"]]

    def parts(self, model: nn.Module, rank: int, world_size: int) -> list[Part]:
        """Where the elements lie that this rank saves."""
        return list(self._parts(model, self.optimizer, rank, world_size))

    @property
    def overflow(self) -> bool:
        """Whether the last step left the update out, for a gradient that was not finite."""
        return bool(taken(self.optimizer, "overflow"))

    def forget_overflow(self) -> None:
        """Call it before a step: only a step's last micro-batch sets `overflow`."""
        replace(self.optimizer, "overflow", False)

    @property
    def loss_scale(self) -> float | None:
        """fp16: the present loss scale; None in other precisions."""
        return None if self._scaler is None else float(taken(self._scaler, "cur_scale"))

    def loss_scaler(self) -> dict[str, Any]:
        """The counters of the loss scaler; empty in other precisions than fp16."""
        if self._scaler is None:
            return {}
        return {key: taken(self._scaler, key) for key in SCALER_KEYS[bool(taken(self._scaler, "dynamic"))]}

    def restore_loss_scaler(self, saved: Mapping[str, Any]) -> None:
        """Go on with the counters of a checkpoint, if it has some (fp16). Raises InputError for those of another kind."""
        present = self.loss_scaler()
        if not saved or not present:
            return
        if saved.keys() != present.keys():
            differing = ", ".join(sorted(saved.keys() ^ present.keys()))
            raise InputError(
                f"the checkpoint's fp16 loss scaler and this one differ in {differing}; expected loss_scale in ds_configs/ "
                "to be of the kind that the job before had (0 is dynamic)"
            )
        for key, value in saved.items():
            replace(self._scaler, key, value)

    def num_parameters(self, model: nn.Module) -> int:
        """Elements of the whole model: ZeRO 3 leaves parameters empty between uses."""
        empty = self._parts is _zero_3
        return sum(int(taken(p, "ds_numel")) if empty else p.numel() for p in model.parameters())

    def reduce_nothing(self) -> None:
        """Stage 0 on one rank: make no copies of the gradients for other ranks."""
        replace(self.engine, "enable_backward_allreduce", False)

    def forget_gradient(self, parameter: nn.Parameter) -> None:
        """Make a parameter's gradient zero, between a step's last backward and the update, whether it got one or not.

        Without this, ZeRO 3 would use the gradient of the step before.
        """
        if self._parts is _zero_3:
            deepspeed.utils.safe_set_local_grad(parameter, torch.zeros_like(taken(parameter, "ds_tensor")))
        elif self._parts is _zero_12:
            deepspeed.utils.safe_set_full_grad(parameter, torch.zeros_like(parameter))
        elif parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()

    def full_gradient(self, parameter: nn.Parameter) -> Tensor:
        """A parameter's gradient, gathered over ranks, fp32 on the CPU."""
        return deepspeed.utils.safe_get_full_grad(parameter).float().cpu().clone()


def _scales_losses(config: Mapping[str, Any]) -> bool:
    return bool(config.get("fp16", {}).get("enabled"))


# -- where an optimizer keeps the master weights -------------------------------------------------------------------


def _plain(model: nn.Module, optimizer: Any, rank: int, world_size: int) -> Iterator[Part]:
    """Stage 0 in fp32: each parameter is its own master."""
    yield from replicated_parts(model, rank, world_size)


def _half(model: nn.Module, optimizer: Any, rank: int, world_size: int) -> Iterator[Part]:
    """Stage 0 in half precision: a master for each parameter."""
    groups = zip(taken(optimizer, "fp16_groups"), taken(optimizer, "fp32_groups"), strict=True)
    masters = {id(p): master for half, full in groups for p, master in zip(half, full, strict=True)}
    yield from replicated_parts(model, rank, world_size, masters)


def _zero_12(model: nn.Module, optimizer: Any, rank: int, world_size: int) -> Iterator[Part]:
    """ZeRO 1 and 2: a rank has a part of the concatenation of all parameters of a group."""
    masters = taken(optimizer, "single_partition_of_fp32_groups")
    for name, parameter in model.named_parameters():
        mapping = taken(parameter, "_hp_mapping")
        if mapping is not None:
            of_parameter, of_master = taken(mapping, "lp_fragment_address"), taken(mapping, "hp_fragment_address")
            start = taken(of_parameter, "start")
            stop = start + taken(of_parameter, "numel")
            yield Part(name, start, stop, masters[taken(mapping, "param_group_index")], taken(of_master, "start"))


def _zero_3(model: nn.Module, optimizer: Any, rank: int, world_size: int) -> Iterator[Part]:
    """ZeRO 3: equal parts of every parameter, the last ones padded. The rank is DeepSpeed's own."""
    masters, positions = taken(optimizer, "fp32_partitioned_groups_flat"), taken(optimizer, "grad_position")
    id_of = taken(optimizer, "get_param_id")
    for name, parameter in model.named_parameters():
        index, first, size = positions[id_of(parameter)]
        numel = int(taken(parameter, "ds_numel"))
        yield Part(name, min(rank * size, numel), min((rank + 1) * size, numel), masters[index], first)


Parts = Callable[[nn.Module, Any, int, int], Iterator[Part]]
PARTS: dict[str, Parts] = {
    "Optimizer": _plain,  # torch's
    "FP16_UnfusedOptimizer": _half,
    "DeepSpeedZeroOptimizer": _zero_12,
    "DeepSpeedZeroOptimizer_Stage3": _zero_3,
}
"""By class: DeepSpeed makes them by stage and precision."""


def _parts_of(optimizer: Any) -> Parts:
    kind = next((cls.__name__ for cls in type(optimizer).__mro__ if cls.__name__ in PARTS), None)
    if kind is None:
        raise InputError(
            f"deepspeed {deepspeed.__version__}: the optimizer that it made of ds_configs/ is a {type(optimizer).__name__}, "
            f"whose state ernie_m/training/deepspeed_adapter.py cannot take; expected one of {', '.join(PARTS)}"
        )
    return PARTS[kind]
