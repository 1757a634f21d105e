"""A small real corpus, built once by the real tools, and ways to start real ranks."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.build import build
from data_prep.embedded import write_embedded_corpus
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.base.hostfile import free_port
from tests.backbone_fixtures import saved_encoder
from tests.link_fixtures import diagonal_links, write

ROOT = Path(__file__).resolve().parents[2]

TINY_RECIPE: dict[str, Any] = {
    "stages": [
        {"steps": 6, "rows": {"MMLM": 1, "TLM": 1, "CAMLM": 1}},
        {"steps": 6, "rows": {"MMLM": 1, "CAMLM": 1, "BTMLM": 1}},
    ],
    "seed": 5,
    "model": {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "ffn_size": 128, "dropout": 0.1, "attention_dropout": 0.1},
    "data": {"sequence_length": 128},
    "batch": {"rows_per_step": 8, "micro_batch_rows": 2},
    "optimizer": {"peak_learning_rate": 1e-3, "warmup_steps": 3},
    "engine": {"zero_stage": 2, "precision": "fp32"},
    "output": {"log_every": 2, "save_every": 4, "evaluate_every": 6, "held_out_pairs": 16},
}
"""Both stages of the paper with a model of a second a dozen steps; the tests change what they are about."""


def tiny_recipe(first_steps: int, second_steps: int, **changes: dict[str, Any]) -> dict[str, Any]:
    """TINY_RECIPE with stages of other lengths and other values in its sections; `output` is replaced as a whole."""
    stages = [dict(stage, steps=n) for stage, n in zip(TINY_RECIPE["stages"], (first_steps, second_steps), strict=True)]
    changed = {name: values if name == "output" else TINY_RECIPE[name] | values for name, values in changes.items()}
    return TINY_RECIPE | {"stages": stages} | changed


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


TrainedEncoders = dict[str, tuple[Path, Path]]
"""Family -> (data folder, Hugging Face folder of a small random encoder, whose tokenizer the data has)."""
SUFFIXES = {
    "Bert": "Model",
    "XLMRoberta": "ForMaskedLM",
    "ModernBert": "ForMaskedLM",
    "EuroBert": "ForMaskedLM",
    "Gte": "Model",
}


@pytest.fixture(scope="session")
def encoders(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedEncoders:
    """Encoders of transformers to be trained on the embedded corpus."""
    folder = tmp_path_factory.mktemp("encoders")
    texts = (lzma.decompress(path.read_bytes()).decode() for path in sorted(embedded.glob("cc100/*.xz")))
    lines = [line for text in texts for line in text.splitlines()]
    made: TrainedEncoders = {}
    for family, suffix in SUFFIXES.items():
        encoder = saved_encoder(folder / family, family, lines, suffix)
        build(embedded / "catalog.yaml", encoder, folder / f"{family}.data")
        write(folder / f"{family}.data", diagonal_links)
        made[family] = folder / f"{family}.data", encoder
    return made


@pytest.fixture(scope="session")
def linked_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These shards with word links."""
    folder = Path(shutil.copytree(data, tmp_path_factory.mktemp("linked") / "data"))
    write(folder, diagonal_links)
    return folder


def environment(num_threads: int = 1) -> dict[str, str]:
    """This environment for child processes: one thread a rank, our interpreter first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": str(num_threads), "PATH": path, "PYTHONUNBUFFERED": "1"}


def start_local_ranks(num_ranks: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a script (or --module NAME) on local ranks by the real deepspeed launcher, in a process group of its own."""
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", str(num_ranks)]
    return subprocess.Popen(
        [*launcher, "--master_port", str(free_port()), *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def start_ranks() -> Callable[..., subprocess.Popen[str]]:
    """start_local_ranks."""
    return start_local_ranks
