"""A step of training: forward, backward and update of a model under DeepSpeed ZeRO (ernie_m.training.deepspeed_adapter).

Batch, learning rate and clipping are "auto" in ds_configs/ and filled from the recipe here; the schedule is ours.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor

from ernie_m.base.config import Section, section
from ernie_m.base.console import Choice, InputError
from ernie_m.base.files import read_json
from ernie_m.base.host_memory import keep_freed_memory
from ernie_m.base.ranges import Range
from ernie_m.base.rank_facts import rank_facts
from ernie_m.models.parts import places_of
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.schedule import PARTS
from ernie_m.runs.fragments import Fragment, FragmentReader, create_moments, fragments_of, num_updates
from ernie_m.runs.meeting import choose_interface, set_meeting
from ernie_m.runs.ranks import PEER_TIMEOUT, Ranks, with_own_gpu
from ernie_m.training.deepspeed_adapter import DeepSpeed, join_ranks, prepare
from ernie_m.training.gradient_exchange import GradientSums, choose_exchange
from ernie_m.training.optimizer import OptimizerConfig, parameter_groups

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@section
class EngineConfig(Section):
    """How the work is sharded and in which precision it is done; together they name a file of ds_configs/."""

    zero_stage: Annotated[int, Range(least=0, most=3, zero="nothing is sharded")] = 1
    """ZeRO stage: 0 none, 1 optimizer, 2 + gradients (reduces every micro-batch), 3 + weights."""
    precision: Precision = "auto"
    """fp32, bf16, fp16 (dynamic loss scaling), or auto by device."""

    def check(self) -> None:
        unscaled = self.precision == "fp16" and self.zero_stage == 0
        self.require(not unscaled, "precision", "zero_stage 1, 2 or 3 with fp16 (DeepSpeed's stage 0 skips the loss scale)")


@section
class BatchConfig(Section):
    """How the rows of a step are spread."""

    rows_per_step: Annotated[int, Range(least=1, most=2**18)] = 2048
    """Rows of a global step, over all ranks and accumulation steps (paper: 2048)."""
    micro_batch_rows: Annotated[int, Range(least=1, most=2**16)] = 4
    """Rows that one rank processes at a time; may change when a run is resumed."""

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches per rank and step; raises InputError with the nearest batch, ranks and rows that divide."""
        together = self.micro_batch_rows * world_size
        if self.rows_per_step % together == 0:
            return self.rows_per_step // together
        nearest = max(1, round(self.rows_per_step / together)) * together
        ways = [f"the nearest that is: {nearest}"]
        if self.rows_per_step % self.micro_batch_rows == 0:
            most = self.rows_per_step // self.micro_batch_rows
            fitting = [n for n in range(1, most + 1) if most % n == 0]
            fewer = max((n for n in fitting if n < world_size), default=0)
            more = min((n for n in fitting if n > world_size), default=0)
            ways.append("with this batch: " + " or ".join(f"{n} ranks" for n in (fewer, more) if n))
        if self.rows_per_step % world_size == 0:
            mine = self.rows_per_step // world_size
            rows = max(n for n in range(1, min(mine, self.micro_batch_rows) + 1) if mine % n == 0)
            ways.append(f"or batch.micro_batch_rows={rows}")
        raise InputError(
            f"batch.rows_per_step: {self.rows_per_step} is not a multiple of micro_batch_rows {self.micro_batch_rows} "
            f"x {world_size} ranks = {together}; {'; '.join(ways)}"
        )


def choose_precision(requested: Precision, device: torch.device) -> Choice:
    """The precision to train in on `device`, with the reason; InputError for bf16 on a GPU that would emulate it."""
    if device.type != "cuda":
        if requested == "auto":
            return Choice("precision", "fp32", f"{device.type} device")
        slow = "; in it this processor multiplies many times slower than in fp32"
        return Choice("precision", requested, f"asked for{'' if multiplies_in(requested) else slow}")
    name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if requested == "bf16" and major < 8:
        raise InputError(f"engine.precision=bf16: {name} (sm{major}{minor}) has none, sm80 and later do; use auto or fp16")
    if requested != "auto":
        return Choice("precision", requested, "asked for")
    if major >= 8:
        return Choice("precision", "bf16", f"{name} has bf16")
    return Choice("precision", "fp16", f"{name} has no bf16")


def multiplies_in(precision: Precision) -> bool:
    """Whether oneDNN has products of this precision for this processor; torch's own take 5 to 10 times as long as fp32's."""
    asked = {
        "bf16": getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None),
        "fp16": getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None),
    }.get(precision)
    return asked is None or bool(asked())


def start_ranks() -> Ranks:
    """Join the other ranks, started by a launcher of ernie_m.base.rank_facts, or alone as plain `python`.

    Raises InputError where several were started and nothing says where they meet.
    """
    prepare()
    facts = with_own_gpu(rank_facts(os.environ))
    set_meeting(facts)
    try:
        interface, address = choose_interface(facts)
        join_ranks(PEER_TIMEOUT)
    except torch.distributed.DistNetworkError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"the ranks cannot meet at {place} ({str(error).splitlines()[0]}); if another program listens there, give "
            "deepspeed another port with --master_port",
            only_here=True,
        ) from None
    return Ranks(facts, interface, address)


class Engine:
    """The model under DeepSpeed ZeRO. One step is: forward and backward for each micro-batch, then `update`."""

    def __init__(
        self,
        model: PretrainingModel,
        ranks: Ranks,
        ds_configs: Path,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        batch: BatchConfig,
        by_part: bool = False,
    ) -> None:
        """`by_part`: some updates will move parts of the model alone."""
        self.ranks, self.optimizer_config = ranks, optimizer
        self.accumulation_steps = batch.accumulation_steps(ranks.world_size)
        self.precision = choose_precision(config.precision, ranks.device)
        self.zero_stage = config.zero_stage
        is_plain = config.zero_stage == 0 and self.precision.value == "fp32"  # then we clip ourselves
        self._plain_norm: float | None = None
        path = ds_configs / f"zero{config.zero_stage}_{self.precision.value}.json"
        values = {
            "train_batch_size": batch.rows_per_step,
            "train_micro_batch_size_per_gpu": batch.micro_batch_rows,
            "gradient_accumulation_steps": self.accumulation_steps,
            "gradient_clipping": 0.0 if is_plain else optimizer.gradient_clipping,
            "lr": optimizer.peak_learning_rate,
            "betas": [optimizer.beta1, optimizer.beta2],
            "eps": optimizer.epsilon,
            "weight_decay": optimizer.weight_decay,
        }
        ds_config = _filled(_read_ds_config(path), values)
        spread = (config.zero_stage, self.accumulation_steps, ranks.world_size)
        self.exchange = choose_exchange(self.precision.value, *spread, ds_config)
        sums_are_ours = self.exchange.fill(ds_config, self.precision.value, config.zero_stage)
        model = model.to(ranks.device)
        self._sums = GradientSums(model) if sums_are_ours else None
        self._places = places_of(model)
        groups = parameter_groups(model, optimizer, self._places if by_part else None)
        self._rates = [(group.factor, group.part) for group in groups]
        self._deepspeed = DeepSpeed(model, [group.for_optimizer() for group in groups], ds_config, path)
        self._engine = self._deepspeed.engine
        if config.zero_stage == 0 and ranks.world_size == 1:
            self._deepspeed.reduce_nothing()
        if ranks.device.type == "cpu":
            keep_freed_memory()  # from now on all steps allocate the same; blocks freed before would stay as holes

    @property
    def module(self) -> PretrainingModel:
        """The model as DeepSpeed holds it, for forwards without gradient."""
        return self._engine.module

    def forward_backward(self, batch: PackedBatch[Tensor], request: LossRequest) -> Tensor:
        """Accumulate the gradient of one micro-batch; returns its summed nll, fp64 [M]."""
        loss, nll_M = self._engine(batch, request)
        if self._sums:
            self._sums.begin(is_last=self._engine.is_gradient_accumulation_boundary())
        self._engine.backward(loss)
        return nll_M

    def update(self, learning_rate: float, trained: Collection[str] = PARTS) -> bool:
        """Close a micro-batch: the optimizer moves when it was the step's last one.

        Parts of the model that are not `trained` do not change at all, and their gradient is zero. So are their moments,
        until they are trained. Returns False, on all ranks, if the gradient was not finite and nothing was updated.
        """
        for group, (factor, part) in zip(self._deepspeed.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * factor if part is None or part in trained else 0.0
        if not set(PARTS) <= set(trained) and self._engine.is_gradient_accumulation_boundary():
            self._forget_gradients(trained)
        if self._deepspeed.is_plain:
            if self._engine.is_gradient_accumulation_boundary() and not self._clip():
                return False
            self._engine.step()
            return True
        self._deepspeed.forget_overflow()
        self._engine.step()
        return not self._deepspeed.overflow

    def _forget_gradients(self, trained: Collection[str]) -> None:
        assert all(part is not None for _, part in self._rates), "the engine was made with by_part"
        for name, parameter in self.module.named_parameters():
            if self._places[name].part not in trained:
                self._deepspeed.forget_gradient(parameter)

    def _clip(self) -> bool:
        """Clip in ZeRO stage 0 and fp32; False when a gradient is not finite.

        DeepSpeed would make two passes over all gradients, and would not notice those that are not finite. Here the second
        pass is made only if there is something to clip.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([cast(Tensor, p.grad) for p in parameters])
        self._plain_norm = float(norm)
        if not math.isfinite(self._plain_norm):
            return False
        most = self.optimizer_config.gradient_clipping
        if 0 < most < self._plain_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return True

    def full_gradients(self) -> dict[str, Tensor]:
        """Every parameter's gradient, gathered over ranks (fp32), between the last backward and `update`: for tests."""
        return {name: self._deepspeed.full_gradient(parameter) for name, parameter in self.module.named_parameters()}

    @property
    def num_parameters(self) -> int:
        """Elements of the whole model."""
        return self._deepspeed.num_parameters(self.module)

    @property
    def loss_scale(self) -> float | None:
        """fp16: the present dynamic loss scale; None in other precisions."""
        return self._deepspeed.loss_scale

    @property
    def gradient_norm(self) -> float | None:
        """Global norm of the last update's gradients before clipping; None before the first."""
        norm = self._plain_norm if self._deepspeed.is_plain else self._engine.get_global_grad_norm()
        return float(norm) if norm else None

    def fragments(self) -> list[Fragment]:
        """Views of this rank's part of the training state: master weights and Adam moments, fp32."""
        return self._fragments(self.ranks.rank, self.ranks.world_size)

    def _fragments(self, rank: int, world_size: int) -> list[Fragment]:
        return fragments_of(self._deepspeed.parts(self.module, rank, world_size), self._deepspeed.adam)

    def counters(self) -> dict[str, Any]:
        """The rest of the training state, the same on all ranks: Adam's count of updates, the loss scaler."""
        updates = num_updates(self._deepspeed.adam, self._deepspeed.masters)
        return {"updates": updates, "loss_scaler": self._deepspeed.loss_scaler()}

    def restore(self, reader: FragmentReader, counters: dict[str, Any]) -> None:
        """Continue from a saved training state. The model was filled with its weights before this engine was made."""
        if reader.has_moments:
            create_moments(self._deepspeed.adam, counters["updates"], self._deepspeed.masters)
        replicated = self.zero_stage == 0  # then a rank saves a share, but works with all of it
        reader.fill(self._fragments(*((0, 1) if replicated else (self.ranks.rank, self.ranks.world_size))))
        self._deepspeed.restore_loss_scaler(counters["loss_scaler"])


def _read_ds_config(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; engine.zero_stage and engine.precision must name a file there") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None


def _filled(content: Any, values: dict[str, Any], key: str = "") -> Any:
    """`content` with every "auto" replaced by the recipe's value of the same key."""
    if isinstance(content, dict):
        return {name: _filled(item, values, name) for name, item in content.items()}
    if content == "auto":
        if key not in values:
            raise InputError(f"ds_configs: {key} says auto, but the recipe owns no such value; give a number")
        return values[key]
    return content
