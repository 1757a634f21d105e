"""A CUDA device that is not there: what torch and DeepSpeed ask of one, answered; and what waits for one, noted.

1. `pretend` loads the library built of cuda_device.cpp, which must come before torch is imported, and answers for
   torch.cuda. FakeTensors then live on "cuda:0", forward and backward, on a CPU build.
2. `watched` stands over them: it counts what would make the host wait for the device.
"""

from __future__ import annotations

import collections
import ctypes
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BOARDS = {(7, 0): "Tesla V100-SXM2-32GB", (8, 0): "NVIDIA A100-SXM4-80GB", (9, 0): "NVIDIA H100 80GB HBM3"}


def pretend(library: str, capability: tuple[int, int]) -> None:
    """From here on this process has one CUDA device of `capability`, good for FakeTensors alone."""
    ctypes.CDLL(library)
    import torch
    import torch._dynamo  # makes tables of torch.cuda's own functions
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Moment:
        """An event or a stream: nothing happens on it."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.cuda_stream = self.stream_id = self.device_index = 0
            self.device = torch.device("cuda", 0)

        def elapsed_time(self, _: Any) -> float:
            return 0.0

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def answer(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    nothing = ("set_device", "synchronize", "empty_cache", "_lazy_init", "manual_seed", "manual_seed_all", "set_rng_state")
    nothing += ("reset_peak_memory_stats", "reset_max_memory_allocated", "reset_max_memory_cached", "_lazy_call")
    torch.cuda.nvtx._nvtx = SimpleNamespace(rangePushA=answer(0), rangePop=answer(0))
    numbers = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "current_device")
    answers: dict[str, Any] = {
        **{name: answer(None) for name in nothing},
        **{name: answer(0) for name in numbers},
        **{name: answer(True) for name in ("is_available", "is_initialized", "is_bf16_supported")},
        **{name: type(name, (Moment,), {}) for name in ("Event", "Stream", "stream", "current_stream", "default_stream")},
        "device_count": answer(1),
        "is_current_stream_capturing": answer(False),
        "get_device_capability": answer(capability),
        "get_arch_list": answer(["sm_{}{}".format(*capability)]),
        "get_device_name": answer(BOARDS[capability]),
        "get_device_properties": answer(SimpleNamespace(name=BOARDS[capability], total_memory=32 << 30)),
        "nvtx": SimpleNamespace(range_push=answer(None), range_pop=answer(None)),
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, value)
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment, method-assign] # no constant moves to the device
    torch.nn.Module._apply = _apply  # type: ignore[method-assign]


def _apply(module: Any, function: Callable[[Any], Any], _: bool = True) -> Any:
    """Module.to, .half and their like: torch's own would swap FakeTensors, which their mode forbids."""
    for parameter in module.parameters():
        data = function(parameter.data)
        assert data.device == parameter.device, "make the module where it is to be"
        parameter.data = data
    return module


def watched() -> Any:
    """A mode over FakeTensors that notes each operation after which the host would have to wait for the device.

    `.found` counts them by "operation at file:function". The number that the host asks for is made up: a norm is 2, a
    flag is 0. A fused optimizer step with tensors on two devices is refused as torch's kernel does.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    def crosses(name: str, args: Any, kwargs: Any) -> bool:
        """Whether a copy from device to host, or one to the device that does not say non_blocking: torch waits for both."""
        if name == "copy_":
            to, source, is_free = args[0].device.type, args[1].device.type, bool([*args[2:], kwargs.get("non_blocking")][0])
        else:
            to = torch.device(kwargs.get("device") or args[0].device).type
            source, is_free = args[0].device.type, bool(kwargs.get("non_blocking"))
        return source != to and (to == "cpu" or not is_free)

    waits = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "equal"}

    class Watched(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: collections.Counter[str] = collections.Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, kwargs = func._schema.name.removeprefix("aten::"), kwargs or {}
            if name == "_pin_memory":
                return args[0]
            if name.startswith("_fused_adam"):
                devices = {tensor.device for tensors in args[:6] for tensor in tensors}
                assert len(devices) == 1, f"a fused optimizer step on {devices}"
            if self._waits(name, args, kwargs):
                self.found[f"{name} at {place()}"] += 1
                if name == "_local_scalar_dense":
                    return 2.0 if args[0].dtype.is_floating_point else 0
            return func(*args, **kwargs)

        @staticmethod
        def _waits(name: str, args: Any, kwargs: Any) -> bool:
            if name in ("copy_", "_to_copy"):
                return crosses(name, args, kwargs)
            if not any(isinstance(a, torch.Tensor) and a.is_cuda for a in args):
                return False
            if name == "index":
                return any(i is not None and i.dtype == torch.bool for i in args[1])
            return name in waits

    return Watched()


def place(frames: traceback.StackSummary | None = None) -> str:
    """The innermost line of ours, or of DeepSpeed's, in these frames or that led here: file:function."""
    for frame in reversed(frames or traceback.extract_stack()):
        for root, start in ((f"{ROOT}/ernie_m/", "ernie_m/"), ("/deepspeed/", "deepspeed/")):
            if root in frame.filename:
                return f"{start}{frame.filename.split(root)[-1]}:{frame.name}"
    return "?"
