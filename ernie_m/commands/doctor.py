"""Check before you start: do all hosts answer, are they alike, is the data whole, is there room, does the batch divide.

    ernie-m doctor --hostfile hostfiles/v100x64 --recipe large --data DATA --run RUN --bandwidth
    ernie-m doctor --data DATA            this machine alone, without ssh

One table with a row a host, then what is wrong with its remedy; exit code 0 only when nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.command_line import words_in
from ernie_m.base.console import InputError
from ernie_m.base.files import check_same_measures, write_json
from ernie_m.base.hostfile import check_host_name, read_hostfile
from ernie_m.base.ranges import Range

if TYPE_CHECKING:
    from ernie_m.hosts.checks import Report
    from ernie_m.hosts.examination import Examination, Results
    from ernie_m.training.recipe import TrainingConfig


def doctor(
    *overrides: str,
    hostfile: str | None = None,
    recipe: str | None = None,
    data: str | None = None,
    run: str | None = None,
    shared: str | None = None,
    bandwidth: bool = False,
    json: str | None = None,
    master_addr: str | None = None,
    master_port: Annotated[int, Range(least=1, most=65_535)] = 29500,
    ssh_port: Annotated[int, Range(least=1, most=65_535)] | None = None,
    ssh_options: str | None = None,
) -> None:
    """Check what a job needs, on every host; problems are listed with their remedies, and the exit code is 2.

    With none of --recipe, --data, --run and --shared the job is the one that pretrain takes: large, data/, runs/large.

    Args:
        overrides: keys of the recipe as key.path=value, as for pretrain
        hostfile: file of `name slots=N` lines, as for `deepspeed --hostfile`; without it this machine alone
        recipe: recipe whose batch must divide over the hostfile's slots, and whose checkpoints must fit on the disk
        data: data folder; the same on all hosts, shard sizes looked at by the first (`data_prep verify` also rehashes)
        run: folder of the run: seen by all hosts, with room for its checkpoints
        shared: another folder to be tried instead of `run`
        bandwidth: also measure a TCP stream from each host to the next (a few seconds)
        json: file to keep all answers and problems in
        master_addr: address of the first host for all to meet at, if it is given to deepspeed
        master_port: port for it
        ssh_port: of the hosts' ssh servers, if it is given to deepspeed
        ssh_options: further options of ssh, e.g. "-F FILE"; else those of PDSH_SSH_ARGS_APPEND, which pdsh takes
    """
    from ernie_m.hosts import job_checks
    from ernie_m.hosts.examination import Examination, examine
    from ernie_m.supervision.deepspeed_job import needs_ssh
    from ernie_m.supervision.environment import ssh_words

    of = {"measure": "doctor"}
    check_same_measures(json, of, "--json")
    recipe, data, run = (recipe, data, run) if recipe or data or run or shared else _defaults()
    here = dict(os.environ)  # importing deepspeed, which a recipe does, changes it
    hosts = read_hostfile(Path(hostfile)) if hostfile else {"localhost": 1}
    if master_addr:
        check_host_name(master_addr, "--master_addr")
    through_ssh = needs_ssh(hosts)
    reached = {} if through_ssh else {"--ssh_port": ssh_port, "--ssh_options": ssh_options}
    _refuse_alone({**reached, **({"--bandwidth": bandwidth or None} if len(hosts) == 1 else {})})
    config, folder = _recipe(recipe, overrides), shared or run
    examination = Examination(
        hosts=hosts,
        through_ssh=through_ssh,
        data=data,
        shared=Path(folder) if folder else None,
        bandwidth=bandwidth,
        master_addr=master_addr,
        master_port=master_port,
        ssh_options=(
            *(words_in(ssh_options, "--ssh_options") if ssh_options else ssh_words(here)),
            *(("-p", str(ssh_port)) if ssh_port else ()),
        ),
        environment=job_checks.environment_of_ranks(here),
    )
    results = examine(examination)
    first, num_ranks = next(iter(results.values())), sum(hosts.values())
    report = _report(results, examination, config, Path(run) if run else None, here)
    if json:
        write_json(Path(json), {**of, "hosts": results, "problems": [asdict(problem) for problem in report.problems]})
    place = f"{len(hosts)} with {num_ranks} ranks" if hostfile else "this machine alone"
    _show(report, [f"hosts        {place}", *job_checks.description(config, num_ranks, first)])


def _refuse_alone(given: Mapping[str, object]) -> None:
    """Raise InputError for the first of these options that has a value: they are about other hosts, and there are none."""
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option}: no other host is to be reached; give a --hostfile that names some, or leave it out")


def _defaults() -> tuple[str, str, str]:
    """Recipe, data and run folder of the job that pretrain takes; prints them."""
    from ernie_m.runs.job_defaults import job_names

    named = job_names(None, None, None)
    print(*named.choices, sep="\n")
    return named.recipe, named.data, named.run


def _report(
    results: Results, examination: Examination, config: TrainingConfig | None, run: Path | None, here: Mapping[str, str]
) -> Report:
    """What is wrong with the hosts, by their answers; with the recipe and what it starts from; and with this machine.

    `here`: the environment that the job would be started in.
    """
    from ernie_m.hosts import job_checks
    from ernie_m.hosts.checks import judge
    from ernie_m.hosts.findings import fact

    first = next(iter(results.values()))
    shards = first.get("shards", {})
    report = judge(results, job_checks.disk_needed(config, shards, run) if config else 0)
    problems, notes = [*report.problems], [*report.notes]
    if config:
        problems += job_checks.recipe_problems(config, sum(examination.hosts.values()), shards)
        problems += job_checks.start_problems(config, Path(examination.data) if examination.data else None, run)
    if examination.through_ssh:
        problems += job_checks.launch_problems()
        notes += job_checks.launch_notes(here, has_gpus=bool(fact(first, "gpus")))
    return replace(report, problems=problems, notes=notes)


def _show(report: Report, description: Sequence[str]) -> None:
    """Print everything; raises InputError if there is a problem."""
    print(*description, sep="\n")
    print(f"\n{report.table()}\n")
    for note in report.notes:
        print(f"note: {note}\n")
    for number, problem in enumerate(report.problems, start=1):
        print(f"{number}. {problem}")
    if count := len(report.problems):
        raise InputError(f"{count} problem{'s' if count > 1 else ''}, listed above with what to do")
    print("all is well")


def _recipe(recipe: str | None, overrides: tuple[str, ...]) -> TrainingConfig | None:
    if recipe is None:
        if overrides:
            raise InputError(f"{overrides[0]}: changes a recipe, but none is named; give --recipe")
        return None
    from ernie_m.base.shipped import recipe_path
    from ernie_m.training.recipe import read_training

    return read_training(recipe_path(recipe), overrides)


def main(called: str = "ernie-m doctor") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(doctor, called)


if __name__ == "__main__":
    main()
