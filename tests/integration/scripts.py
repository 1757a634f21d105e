"""Our scripts in processes of their own, without the wait: forked off one that has imported torch and DeepSpeed already.

What runs is what `python launcher/pretrain.py ...` runs, with its own environment, streams and exit code; only the imports
are shared. That commands import what they need and no more is tested elsewhere (test_commands, test_wheel).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from ernie_m.base.hostfile import free_port
from tests.integration.conftest import ROOT, environment

PRELOADED = [
    "ernie_m.training.trainer",
    "ernie_m.interop.encoder",
    "matplotlib.pyplot",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
    __name__,
]


def fork_server() -> ForkServerContext:
    """The one of this test process; it starts with the first process that it is asked for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _script(words: Sequence[str], given: Mapping[str, str], streams: tuple[str, str]) -> None:
    """What the process does: as `python` would, the script or `-m MODULE` that `words` begin with."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(given)
    os.chdir(ROOT)
    name, sys.argv = (words[1], list(words[1:])) if words[0] == "-m" else (words[0], list(words))
    sys.path.insert(0, str(ROOT))
    try:
        if words[0] == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _ended(
    words: Sequence[str | Path], each: Sequence[Mapping[str, str]], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run the same words once for each environment, side by side; the first exit code but 0, and all they wrote."""
    texts = list(map(str, words))
    with tempfile.TemporaryDirectory() as folder:
        streams = (f"{folder}/out", f"{folder}/err")
        processes = [fork_server().Process(target=_script, args=(texts, given, streams)) for given in each]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        late = [process for process in processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        out, err = (Path(path).read_text(encoding="utf-8") for path in streams)
    assert not late, f"{words[0]} did not end within {timeout} s:\n{out}{err}"
    codes = [process.exitcode for process in processes if process.exitcode]
    return subprocess.CompletedProcess(texts, codes[0] if codes else 0, out, err)


def run_script(
    *words: str | Path, given: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` to its end, under an environment (here: ours, one thread)."""
    return _ended(words, [environment() if given is None else given], timeout)


def run_ranks(num_ranks: int, *words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` on ranks with the environment that a launcher gives; what launchers do is tested elsewhere."""
    shared = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    each = [environment() | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
    return _ended(words, each, timeout)
