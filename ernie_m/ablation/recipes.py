"""Recipes that are compared: one's stages with all else of another, scaled to a number of steps; what they cost and hold."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.base.config import build, merge_overrides, read_recipe
from ernie_m.base.console import InputError
from ernie_m.base.curve import Curve
from ernie_m.base.sampling import apportion
from ernie_m.base.shipped import recipe_path
from ernie_m.interop.build_model import counted_shape
from ernie_m.models.shape import ModelConfig
from ernie_m.planning.speed import Work, hardware_flops, predicted_share
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.training.recipe import TrainingConfig


def recipe_of(name: str, shape: str | None) -> dict[str, Any]:
    """Recipe `name`; with `shape`, only its stages, and all else from the recipe of that name."""
    content = read_recipe(recipe_path(name))
    if shape is None:
        return content
    return {**read_recipe(recipe_path(shape)), "stages": content["stages"]}


def budgeted(recipe: dict[str, Any], steps: int | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe with its stages, its warm-up and the points of `objective_weights` scaled to `steps` altogether.

    Then come the overrides, as they are.
    """
    scaled = merge_overrides(recipe, [])
    if steps is not None:
        try:
            _scale(scaled, steps)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError):
            build(TrainingConfig, recipe, "recipe")  # says what is wrong with it
            raise
    merged = merge_overrides(scaled, overrides)
    build(TrainingConfig, merged, "recipe")
    return merged


def _scale(recipe: dict[str, Any], steps: int) -> None:
    stages = recipe["stages"]
    before = [stage["steps"] for stage in stages]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < len(stages):
        raise InputError(f"--steps {steps!r}: expected a whole number, at least one for each of {len(stages)} stages")
    for stage, count in zip(stages, apportion([n / sum(before) for n in before], steps), strict=True):
        stage["steps"] = count
    warmup = recipe.setdefault("optimizer", {}).get("warmup_steps")
    if warmup is not None:
        recipe["optimizer"]["warmup_steps"] = max(1, round(warmup * steps / sum(before)))
    weights = recipe.get("objective_weights")
    if isinstance(weights, dict):
        recipe["objective_weights"] = {loss: _scaled(weight, steps / sum(before)) for loss, weight in weights.items()}


def _scaled(weight: Any, factor: float) -> Any:
    """A curve with its points so much further; all else as it is, also what is no weight: `build` tells."""
    if isinstance(weight, str) and ":" in weight:
        with contextlib.suppress(ValueError):
            return Curve.of(weight).scaled(factor).written
    return weight


def start_in(recipe: Mapping[str, Any]) -> str:
    """'From scratch', or 'From NAME': what the models of a recipe start from."""
    start = recipe.get("model", {}).get("backbone") or recipe.get("init_from")
    return f"From {Path(str(start)).name}" if start else "From scratch"


def objectives_in(recipe: Mapping[str, Any]) -> str:
    """'MMLM + TLM': the objectives of all stages, in the table's order."""
    present = {name for stage in recipe["stages"] for name in stage["rows"]}
    return " + ".join(name for name in OBJECTIVES if name in present)


def flops(config: TrainingConfig, vocab_size: int) -> float:
    """FLOPs of the whole training, forward and backward, BTMLM's generation included (ernie_m.planning.speed)."""
    model = counted_shape(config.shape)
    if isinstance(config.shape, ModelConfig):
        model = model.resolved(vocab_size, model.num_languages or 1)
    total = 0.0
    for stage in config.stages:
        generating = sum(share for name, share in stage.rows.items() if OBJECTIVES[name].is_pseudo_parallel)
        work = Work(
            tokens=config.batch.rows_per_step * config.data.sequence_length,
            sequence_length=config.data.sequence_length,
            predicted_share=predicted_share(stage.rows, config.data.corruption),
            generating_share=generating / sum(stage.rows.values()),
            pseudo_token_share=config.data.corruption.pseudo_token_share,
            micro_batches=config.batch.rows_per_step // config.batch.micro_batch_rows,
        )
        total += stage.steps * hardware_flops(model, work)
    return total
