"""Pre-train an encoder.

    ernie-m pretrain --recipe demo --data DATA --run RUN optimizer.peak_learning_rate=1e-3 seed=7     one process
    deepspeed --num_gpus 8 --module ernie_m.commands.pretrain --recipe base --data DATA --run RUN

In a checkout launcher/pretrain.py stands for the module:

    deepspeed --num_gpus 8 launcher/pretrain.py --recipe base --data DATA --run RUN
    deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py          recipe large, data/, runs/large

The same command, given again, goes on from the newest whole checkpoint of RUN, on any number of ranks that the batch
divides over, in any ZeRO stage. SIGTERM or SIGUSR1 to any rank: saved and stopped within a step, exit code 75.
`ernie-m supervise` restarts by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.launchers import rank_of
from ernie_m.base.ranges import Range
from ernie_m.base.shipped import DS_CONFIGS, recipe_path

if TYPE_CHECKING:
    from ernie_m.runs.job_defaults import JobNames


def pretrain(
    *overrides: str,
    recipe: str | None = None,
    data: str | None = None,
    run: str | None = None,
    ranks: Annotated[int, Range(least=1, most=10**6)] | None = None,
    from_scratch: bool = False,
    exit_after: str | None = None,
    skip_steps: str | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
    local_rank: Annotated[int, Range(least=-1, most=10**6, zero="the first of a host")] = -1,
) -> None:
    """Pre-train by a recipe; resumes by itself.

    Args:
        overrides: any key of the recipe as key.path=value, e.g. batch.micro_batch_rows=8 output.save_every=500
        recipe: a name (demo, small, base, base_15, large; exp1 .. exp5, the paper's ablations; learning,
            learning_mmlm, learning_tlm, learning_camlm, learning_btmlm, those of docs/results.md; scratch; xlm_clm, xlm_mlm,
            xlm_mlm_tlm, xlm_mt, xlm_mt_bt, xlm_unsupervised; alignlm; align, align_text, align_sentences, those of
            `ernie-m align`) or a path to a YAML
            file; default: large
        data: folder made by `python -m data_prep build`; default: data/
        run: folder of this run: configuration, metrics, curves and checkpoints; made if it does not exist; default: runs/
            and the recipe's name
        ranks: refuse to train on any other number of ranks, e.g. 64: a mistyped --hostfile leaves those of one machine
        from_scratch: delete what RUN holds of an earlier run and start at step 0
        exit_after: save and stop after this time, e.g. 55m or 1h30m; exit code 75, the same command goes on
        skip_steps: steps to leave out, e.g. 1200:1300 (1200 to 1299, counted from 0); remembered in RUN, and the run goes
            back to the newest checkpoint before the first of them
        tensorboard: also write TensorBoard events to RUN/tensorboard
        wandb: also send metrics to Weights & Biases; a restart continues the same run there
        local_rank: set by the deepspeed launcher
    """
    from ernie_m.base.interruption import seconds_of
    from ernie_m.training.recipe import read_training
    from ernie_m.training.trainer import Trainer

    job = named_job(recipe, data, run)
    config = read_training(recipe_path(job.recipe), overrides)
    trackers = [name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted]
    seconds = seconds_of(exit_after, "--exit_after") if exit_after else None
    folders = Path(job.data), Path(job.run), DS_CONFIGS
    Trainer(config, *folders, from_scratch, trackers, seconds, skip_steps, ranks).run()


def named_job(recipe: str | None, data: str | None, run: str | None) -> JobNames:
    """The job with its defaults filled in, and printed; raises InputError that names everything that is missing."""
    from ernie_m.runs.job_defaults import check_there, job_names

    job, problem = job_names(recipe, data, run), None
    if rank_of(os.environ) == 0:
        print(*job.choices, sep="\n", end="\n" if job.choices else "", flush=True)
    try:
        recipe_path(job.recipe)
    except InputError as error:
        problem = str(error)
    check_there(job, problem)
    return job


def main(called: str = "ernie-m pretrain") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(pretrain, called)


if __name__ == "__main__":
    main()
