"""Pre-train an encoder.

    deepspeed --num_gpus 8 launcher/pretrain.py --recipe base --data DATA --run RUN
    deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py --recipe large --data DATA --run RUN
    python launcher/pretrain.py --recipe demo --data DATA --run RUN optimizer.peak_learning_rate=1e-3 seed=7

The same command, given again, goes on from the newest whole checkpoint of RUN, on any number of ranks that the batch
divides over, in any ZeRO stage. SIGTERM or SIGUSR1 to any rank: saved and stopped within a step, exit code 75.
launcher/supervise.py restarts by itself.
"""

from __future__ import annotations

from pathlib import Path

try:
    from ernie_m.command_line import run as run_command
    from ernie_m.console import InputError
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

ROOT = Path(__file__).resolve().parents[1]
RECIPES = Path(__file__).resolve().parent / "recipes"


def pretrain(
    *overrides: str,
    recipe: str,
    data: str,
    run: str,
    from_scratch: bool = False,
    exit_after: str | None = None,
    skip_steps: str | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
    local_rank: int = -1,
) -> None:
    """Pre-train by a recipe; resumes by itself.

    Args:
        overrides: any key of the recipe as key.path=value, e.g. batch.micro_batch_rows=8 output.save_every=500
        recipe: a name in launcher/recipes/ (demo, small, base, large, exp1 .. exp5) or a path to a YAML file
        data: folder made by `python -m data_prep build`
        run: folder of this run: configuration, metrics, curves and checkpoints; made if it does not exist
        from_scratch: delete what RUN holds of an earlier run and start at step 0
        exit_after: save and stop after this time, e.g. 55m or 1h30m; exit code 75, the same command goes on
        skip_steps: steps to leave out, e.g. 1200:1300 (1200 to 1299, counted from 0); remembered in RUN, and the run goes
            back to the newest checkpoint before the first of them
        tensorboard: also write TensorBoard events to RUN/tensorboard
        wandb: also send metrics to Weights & Biases; a restart continues the same run there
        local_rank: set by the deepspeed launcher
    """
    from ernie_m.config import build, merge_overrides, read_recipe
    from ernie_m.interruption import seconds_of
    from ernie_m.recipe import TrainingConfig
    from ernie_m.trainer import Trainer

    path = recipe_path(recipe)
    config = build(TrainingConfig, merge_overrides(read_recipe(path), overrides), str(path))
    trackers = [name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted]
    seconds = seconds_of(exit_after, "--exit_after") if exit_after else None
    Trainer(config, Path(data), Path(run), ROOT / "ds_configs", from_scratch, trackers, seconds, skip_steps).run()


def recipe_path(recipe: str) -> Path:
    """The file of a recipe given by name or path; raises InputError naming those there are."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"recipe {recipe}: no such file {path}; known recipes: {names}")
    return path


if __name__ == "__main__":
    run_command(pretrain, "launcher/pretrain.py")
