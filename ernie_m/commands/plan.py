"""Plan before you book GPUs: does the job fit, with which ZeRO stage and micro-batch, and how many days will it take.

    ernie-m plan --hostfile hostfiles/v100x64 --recipe large
    ernie-m plan --hostfile hostfiles/h200x8 --recipe large --gpu H200 model.activation_checkpointing=false

One table of memory a GPU by part, step time and days for every precision and ZeRO stage, with and without activation
checkpointing, each at the largest micro-batch that fits and divides the batch; then one line of advice with reasons.
Arithmetic alone: needs no GPU and no data. With --data the FLOPs that are needed (MFU) count the pairs that documents read,
on rows of it; without, whole rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import Choice, InputError
from ernie_m.base.ranges import Range

if TYPE_CHECKING:
    from ernie_m.models.shape import AnyModel, ModelConfig


def plan(
    *overrides: str,
    recipe: str | None = None,
    hostfile: str | None = None,
    gpu: str | None = None,
    network: Annotated[float, Range(above=0, most=1e6)] | None = None,
    efficiency: Annotated[float, Range(above=0, most=1)] | None = None,
    data: str | None = None,
) -> None:
    """Plan a job: memory, micro-batch, step time and days for each precision and ZeRO stage, and advice.

    Args:
        overrides: keys of the recipe as key.path=value, as for pretrain
        recipe: a name or a path to a YAML file; default: large
        hostfile: file of `name slots=N` lines, as for `deepspeed --hostfile`; default: hostfiles/v100x64
        gpu: V100-32GB, A100-80GB, H100, H200 or cpu; by default the one that the hostfile's name begins with, else V100-32GB
        network: Gbit/s that a host sends to others, all its network cards together; by default the device's usual
        efficiency: share of the device's peak that matrix products reach, e.g. 0.7; by default the one stated
        data: folder of prepared data, for its vocabulary and to count on what attention reads; without it the recipe's
            vocabulary, or XLM-R's, and whole rows
    """
    from ernie_m.base.devices import DEVICES, device_named
    from ernie_m.base.hostfile import read_hostfile
    from ernie_m.base.shipped import DS_CONFIGS, HOSTFILES, recipe_path
    from ernie_m.planning.plan import Job, bucket_elements, plans
    from ernie_m.planning.reading import counted_keys
    from ernie_m.planning.report import report
    from ernie_m.runs.job_defaults import HOSTFILE, job_names
    from ernie_m.training.recipe import read_training

    job_named = job_names(recipe, None, None)
    for choice in (choice for choice in job_named.choices if choice.subject == "recipe"):
        print(choice)
    if hostfile is None:
        hostfile = str(HOSTFILES / Path(HOSTFILE).name)
        print(Choice("hostfile", HOSTFILE, "--hostfile is not given"))
    hosts = read_hostfile(Path(hostfile))
    stem = Path(hostfile).name.lower()
    device = device_named(
        gpu or next((name for name in DEVICES if stem.startswith(name.split("-")[0].lower())), "V100-32GB")
    )
    if network is not None:
        if len(hosts) == 1:
            raise InputError(f"--network {network:g}: {hostfile} has one host, which sends nothing to others; leave it out")
        device = replace(device, network=network * 1e9 / 8)
    if efficiency is not None:
        device = replace(device, efficiency=efficiency, source="as given")
    path = recipe_path(job_named.recipe)
    config = read_training(path, overrides)
    if config.model.translates:
        raise InputError(
            f"--recipe {path.stem}: its model has a decoder; plans are of encoders alone: leave model.decoder out"
        )
    keys = counted_keys(config, Path(data)) if data else {}
    shape = _counted(config.shape, Path(data) if data else None)
    job = Job(config, shape, hosts, device, bucket_elements(DS_CONFIGS), keys)
    print(report(job, plans(job)))


def _counted(model: AnyModel, data: Path | None) -> ModelConfig:
    """The shape that a recipe's model is counted by, with the data's vocabulary; our own encoder's needs no torch."""
    from ernie_m.corpus.manifest import Manifest
    from ernie_m.models.shape import ModelConfig

    if isinstance(model, ModelConfig):
        if data is None:
            return model
        manifest = Manifest.read(data)
        return model.resolved(manifest.specials.vocab_size, len(manifest.languages))
    from ernie_m.interop.build_model import counted_shape

    return counted_shape(model)


def main(called: str = "ernie-m plan") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(plan, called)


if __name__ == "__main__":
    main()
