"""A comparison's plan from the command line's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ernie_m.ablation.comparison import ComparisonPlan
from ernie_m.ablation.fine_tuning import fine_tunings
from ernie_m.base.command_line import listed, words_in
from ernie_m.base.console import InputError
from ernie_m.base.files import require_outside
from ernie_m.base.hostfile import check_host_name, read_hostfile
from ernie_m.corpus.gold_sets import gold_paths
from ernie_m.supervision.deepspeed_job import value_of


def plan_of(
    data: str,
    to: str,
    seeds: int,
    jobs: int,
    pairs: int,
    *,
    deepspeed: str = "",
    tatoeba: str | None = None,
    held_out: str | None = None,
    gold: str | None = None,
    finetune: str | None = None,
    finetune_options: str = "",
    finished: str | None = None,
    only: str | None = None,
    read: Mapping[str, str | None] | None = None,
) -> ComparisonPlan:
    """The plan; `read`: further folders that are read, by their options.

    Raises InputError for folders that are not there, for TO in one that is read, and for hosts that deepspeed must not see.
    """
    for name, folder in (("tatoeba", tatoeba), ("held_out", held_out), ("finished", finished)):
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"--{name} {folder}: no such folder")
    tunings = fine_tunings(finetune, finetune_options)
    folders = {"--data": data, "--tatoeba": tatoeba, "--held_out": held_out, "--finished": finished, **(read or {})}
    require_outside("--to", Path(to), {**folders, **{f"--finetune {of.task}": of.data for of in tunings}})
    launching = words_in(deepspeed, "--deepspeed")
    check_hosts(launching)
    chosen = tuple(listed("only", only, "names of the table with commas between"))
    return ComparisonPlan(
        to=Path(to).resolve(),
        data=Path(data).resolve(),
        seeds=seeds,
        side_by_side=jobs,
        deepspeed=launching,
        held_out=resolved(held_out),
        tatoeba=resolved(tatoeba),
        pairs=pairs,
        gold=gold_paths(gold),
        fine_tuning=tunings,
        finished=resolved(finished),
        only=chosen,
    )


def check_hosts(launching: Sequence[str]) -> None:
    """Raise InputError for a hostfile that deepspeed must not see; it passes any name on to ssh."""
    for option in ("--hostfile", "-H"):
        if path := value_of(option, launching):
            read_hostfile(Path(path))
    if address := value_of("--master_addr", launching):
        check_host_name(address, "--master_addr")


def resolved(path: str | None) -> Path | None:
    """The absolute path, None for none."""
    return Path(path).resolve() if path else None


def start_of(name: str) -> str:
    """A path made absolute: recipes hold it. A hub id stays."""
    return str(Path(name).resolve()) if Path(name).exists() else name
