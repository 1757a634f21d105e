"""launcher/pretrain.py, struck by faults at given places: nothing of its logic is replaced.

FAULTS in the environment is a JSON list of them, e.g. {"do": "SIGTERM", "in": "generation", "step": 8, "rank": 0}:
- "in": one of PLACES; "step": from 0, or null for any; "rank": null for all;
- "do": what happens there: a signal to this very process, or one of ACTIONS or ON_LOSS with its "argument";
- once, or with "until" each time in steps "step" .. "until" - 1. A loss is hit in all micro-batches of its step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Fault = dict[str, Any]
FAULTS: list[Fault] = json.loads(os.environ.get("FAULTS", "[]"))
RANK = int(os.environ.get("RANK", "0"))
PLACES = ("start", "micro-batch", "generation", "evaluation")
LONGEST_WAIT = 120.0
BALLAST = "ballast"
present_step = -1


def fill(folder: str) -> None:
    """Leave no byte free on the disk of `folder`."""
    with open(Path(folder) / BALLAST, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def free(folder: str) -> None:
    """Take back what `fill` took."""
    (Path(folder) / BALLAST).unlink(missing_ok=True)


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes; -1 lifts it. The file system refuses more, as a full one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def wait_for(path: str) -> None:
    """Say that we are here (PATH.reached), then wait until `path` exists."""
    Path(f"{path}.reached").touch()
    deadline = time.monotonic() + LONGEST_WAIT
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def touch_and_sleep(path: str) -> None:
    """Create a file and leave the run time enough to look for it."""
    Path(path).touch()
    time.sleep(1.2)


ACTIONS: dict[str, Callable[[Any], None]] = {
    "fill": fill,
    "free": free,
    "limit": limit_files,
    "wait": wait_for,
    "touch": touch_and_sleep,
    "sleep": time.sleep,
}
ON_LOSS = ("scale loss", "scale nll")  # of the gradient; of what is reported alone


def is_due(fault: Fault) -> bool:
    """Whether it strikes this rank in this step."""
    first = fault.get("step")
    in_time = first is None or first <= present_step < fault.get("until", first + 1)
    return in_time and fault.get("rank") in (None, RANK)


def strike(place: str) -> None:
    """Let happen what is due here and now."""
    for fault in [f for f in FAULTS if f["in"] == place and f["do"] not in ON_LOSS and is_due(f)]:
        if "until" not in fault:
            FAULTS.remove(fault)
        if fault["do"] in ACTIONS:
            ACTIONS[fault["do"]](fault["argument"])
        else:
            os.kill(os.getpid(), signal.Signals[fault["do"]])


def factor(kind: str) -> float | None:
    """What a loss is multiplied with now: nan, inf or a number."""
    return next((float(fault["argument"]) for fault in FAULTS if fault["do"] == kind and is_due(fault)), None)


def main() -> None:
    from ernie_m.models import gain
    from ernie_m.training import trainer, training_loop
    from ernie_m.training.engine import Engine

    step, forward_backward, fill_in, to_device = (
        training_loop.TrainingLoop._step,
        Engine.forward_backward,
        training_loop.fill_placeholders,
        gain.to_device,
    )

    def noted_step(self: Any, number: int, *rest: Any) -> Any:
        global present_step
        present_step = number
        return step(self, number, *rest)

    def struck_micro_batch(self: Engine, batch: Any, request: Any) -> Any:
        strike("micro-batch")
        if (by := factor("scale loss")) is not None:
            request = dataclasses.replace(request, scales_L=request.scales_L * by)
        nll_M = forward_backward(self, batch, request)
        return nll_M if (by := factor("scale nll")) is None else nll_M * by

    def struck_generation(model: Any, batch: Any, *more: Any) -> Any:
        if batch.generates:
            strike("generation")
        return fill_in(model, batch, *more)

    def struck_evaluation(*arguments: Any) -> Any:
        strike("evaluation")  # inside of a measurement, between the poll and the forward
        return to_device(*arguments)

    def struck_start(*arguments: Any, **more: Any) -> Engine:
        strike("start")
        return Engine(*arguments, **more)

    training_loop.TrainingLoop._step = noted_step  # type: ignore[method-assign]
    Engine.forward_backward = struck_micro_batch  # type: ignore[method-assign]
    training_loop.fill_placeholders = struck_generation
    gain.to_device = struck_evaluation
    trainer.Engine = struck_start  # type: ignore[assignment,misc]
    if os.environ.get("FP16_ON_CPU"):  # DeepSpeed refuses it unless told that it is supported
        from deepspeed.accelerator import get_accelerator

        type(get_accelerator()).is_fp16_supported = lambda self: True
    from ernie_m.commands import pretrain

    with contextlib.suppress(BrokenPipeError):
        pretrain.main("launcher/pretrain.py")


if __name__ == "__main__":
    main()
