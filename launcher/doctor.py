"""Look before you start: is the hostfile one, does the batch divide, is the data whole, what is installed here.

python launcher/doctor.py --hostfile hostfiles/v100x64 --recipe large --data DATA
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

try:
    from ernie_m.command_line import run as run_command
    from ernie_m.console import InputError, Progress
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

PACKAGES = ("torch", "deepspeed", "transformers", "sentencepiece", "pyarrow", "numpy")


def doctor(*, hostfile: str | None = None, recipe: str | None = None, data: str | None = None) -> None:
    """Check what a job needs, on this host; the first thing that does not fit is one line and exit code 2.

    Args:
        hostfile: file of `name slots=N` lines, as for `deepspeed --hostfile`
        recipe: recipe whose batch must divide over the hostfile's slots
        data: data folder; manifest, tokenizer and shard sizes are checked (`data_prep verify` also rehashes)
    """
    from pretrain import recipe_path

    from ernie_m.config import build, read_recipe
    from ernie_m.corpus import CorpusFolder
    from ernie_m.hostfile import read_hostfile
    from ernie_m.recipe import TrainingConfig

    print("installed  " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    print(f"this host  {platform.node()}, Python {platform.python_version()}, {_devices()}")
    num_ranks = 1
    if hostfile:
        hosts = read_hostfile(Path(hostfile))
        num_ranks = sum(hosts.values())
        print(f"hostfile   {len(hosts)} hosts, {num_ranks} ranks: " + ", ".join(f"{h} x{n}" for h, n in hosts.items()))
    if recipe:
        path = recipe_path(recipe)
        config = build(TrainingConfig, read_recipe(path), str(path))
        steps = config.batch.accumulation_steps(num_ranks)
        rows = config.batch.rows_per_step
        print(f"recipe     {recipe}: {rows} rows a step = {num_ranks} ranks x {config.batch.micro_batch_rows} x {steps}")
    if data:
        folder = CorpusFolder(data)
        folder.check_sizes(Progress("sizes of shards", folder.num_shards, "shards"))
        streams = [*folder.monolingual(), *folder.parallel()]
        tokens = sum(stream.num_tokens for stream in streams)
        print(f"data       {len(folder.manifest.languages)} languages, {len(streams)} streams, {tokens:,} tokens")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{package}: not installed; pip install -e . brings all that is needed") from None


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


if __name__ == "__main__":
    run_command(doctor, "launcher/doctor.py")
