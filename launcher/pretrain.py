"""Pre-train an encoder.

    deepspeed --num_gpus 8 launcher/pretrain.py --recipe base --data DATA --run RUN
    deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py --recipe large --data DATA --run RUN
    python launcher/pretrain.py --recipe demo --data DATA --run RUN optimizer.peak_learning_rate=1e-3 seed=7

The same command, given again, goes on from the newest whole checkpoint of RUN.
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
    tensorboard: bool = False,
    local_rank: int = -1,
) -> None:
    """Pre-train by a recipe; resumes by itself.

    Args:
        overrides: any key of the recipe as key.path=value, e.g. batch.micro_batch_rows=8 output.save_every=500
        recipe: a name in launcher/recipes/ (demo, small, base, large, exp1 .. exp5) or a path to a YAML file
        data: folder made by `python -m data_prep build`
        run: folder of this run: configuration, metrics, curves and checkpoints; made if it does not exist
        from_scratch: delete what RUN holds of an earlier run and start at step 0
        tensorboard: also write TensorBoard events to RUN/tensorboard
        local_rank: set by the deepspeed launcher
    """
    from ernie_m.config import build, merge_overrides, read_recipe
    from ernie_m.recipe import TrainingConfig
    from ernie_m.trainer import Trainer

    path = recipe_path(recipe)
    config = build(TrainingConfig, merge_overrides(read_recipe(path), overrides), str(path))
    Trainer(config, Path(data), Path(run), ROOT / "ds_configs", from_scratch, tensorboard).run()


def recipe_path(recipe: str) -> Path:
    """The file of a recipe given by name or path; raises InputError naming those there are."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"recipe {recipe}: no such file {path}; known recipes: {names}")
    return path


if __name__ == "__main__":
    run_command(pretrain, "launcher/pretrain.py")
