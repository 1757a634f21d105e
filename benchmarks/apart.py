"""A measurement in a process of its own: its memory is its own, and what it leaves behind ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

OUT_OF_MEMORY = "out_of_memory"
Completed = subprocess.CompletedProcess[str]


def apart(script: str, setup: Any, run: str, *details: Any, timeout: float | None = None, **process: Any) -> Completed:
    """A run of `script`, which is to `answer` what follows its --inside; the last line of its output is the result.

    `setup` is a dataclass; timeout in seconds (then subprocess.TimeoutExpired).
    """
    command = [sys.executable, script, "--inside", json.dumps([asdict(setup), run, *details])]
    return finished(command, timeout, **process)


def finished(command: Sequence[str], timeout: float | None, **process: Any) -> Completed:
    """The command and all it starts, in a session of its own, over when it is, or after `timeout` seconds."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes, **process) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)  # torch's compilers too, and a training of the launcher
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def answer(request: str, runs: Mapping[str, Callable[..., Any]], setup: Callable[..., Any]) -> None:
    """Do what `apart` asked this process for; a GPU's memory that does not suffice is a result too."""
    sizes, run, *details = json.loads(request)
    try:
        result = runs[run](setup(**sizes), *details)
    except torch.OutOfMemoryError as error:
        result = {OUT_OF_MEMORY: ". ".join(str(error).split(". ")[:2])}
    print(json.dumps(result))
