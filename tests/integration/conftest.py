"""A small real corpus, built once by the real tools, and ways to start real ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.build import build
from data_prep.embedded import write_embedded_corpus
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.hostfile import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded corpus, a few hundred sentences a language."""
    folder = tmp_path_factory.mktemp("embedded")
    write_embedded_corpus(folder, seed=0, lines_per_language=120, pairs_per_language=120, held_out_pairs=20)
    return folder


@pytest.fixture(scope="session")
def data(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That corpus as shards."""
    folder = tmp_path_factory.mktemp("prepared")
    tokenizer = folder / "spm.model"
    train_tokenizer(embedded / "catalog.yaml", tokenizer, 2000)
    build(embedded / "catalog.yaml", tokenizer, folder / "data")
    return folder / "data"


def environment(num_threads: int = 1) -> dict[str, str]:
    """This environment for child processes: one thread a rank, our interpreter first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": str(num_threads), "PATH": path, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def start_ranks() -> Callable[..., subprocess.Popen[str]]:
    """Start a script on local ranks through the real deepspeed launcher, in a process group of its own."""

    def start(num_ranks: int, *arguments: str | Path) -> subprocess.Popen[str]:
        launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", str(num_ranks)]
        command = [*launcher, "--master_port", str(free_port()), *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start
