"""Files that come with the package: recipes, DeepSpeed configurations, hostfiles.

`ernie_m/shipped/` holds them. In a checkout these are links to the folders where people look for them, launcher/recipes/,
ds_configs/ and hostfiles/; a wheel has the files themselves. So the same path holds in both.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ernie_m.base.console import InputError


def _folder(name: str) -> Path:
    return Path(str(resources.files("ernie_m"))).joinpath("shipped", name).resolve()


RECIPES = _folder("recipes")
DS_CONFIGS = _folder("ds_configs")
HOSTFILES = _folder("hostfiles")


def shipped_recipes() -> str:
    """Their names, for a line of text."""
    return ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def recipe_path(recipe: str) -> Path:
    """The file of a recipe given by name or path; raises InputError naming those there are."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if path.is_file():
        return path
    if Path(recipe).exists():
        what = "a folder" if Path(recipe).is_dir() else "its name does not end with .yaml"
        raise InputError(f"recipe {recipe}: {what}; expected a .yaml file; known recipes: {shipped_recipes()}")
    raise InputError(f"recipe {recipe}: no such file; known recipes: {shipped_recipes()}")
