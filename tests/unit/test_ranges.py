"""Every number of every section and command has a range: a value outside of it is one line that names it."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import ernie_m
from ernie_m.base.command_line import checked_arguments, types_of
from ernie_m.base.config import Section, build, hints_of, merge_overrides, read_recipe, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range, described
from ernie_m.base.shipped import recipe_path
from ernie_m.base.table import table
from ernie_m.commands.choice import COMMANDS
from ernie_m.downstream.bitext_tuning import BitextHyperparameters
from ernie_m.downstream.mlqa import MlqaHyperparameters
from ernie_m.downstream.ner import NerHyperparameters
from ernie_m.downstream.task import Hyperparameters
from ernie_m.models.shape import BackboneConfig
from ernie_m.training.recipe import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
TRAINED: dict[str, Any] = {"learning_rate": 1e-4, "batch_size": 8, "epochs": 1, "max_length": 128}
ROOTS: dict[type[Section], dict[str, Any]] = {
    TrainingConfig: read_recipe(recipe_path("demo")),
    BackboneConfig: {"backbone": "a folder"},
    Hyperparameters: TRAINED,
    NerHyperparameters: TRAINED,
    BitextHyperparameters: TRAINED,
    MlqaHyperparameters: TRAINED,
}
"""Sections that are built of what a user writes, with a content that is right."""
VALUES = ("0", "-1", "1e30", ".inf", "-.inf", ".nan", "word", "true", "1" + "0" * 400)
NAMES_IN_DICTS = "MMLM"


def numbers_of(cls: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, type hint) of each number, also in sections, lists and mappings inside."""
    for name, hint in hints_of(cls).items():
        yield from _numbers_in(hint, f"{prefix}{name}")


def _numbers_in(hint: Any, key: str) -> Iterator[tuple[str, Any]]:
    base, _ = described(hint)
    origin, arguments = typing.get_origin(base), typing.get_args(base)
    if base in (int, float):
        yield key, hint
    elif origin is dict:
        yield from _numbers_in(arguments[1], f"{key}.{NAMES_IN_DICTS}")
    elif origin is tuple:
        yield from _numbers_in(arguments[0], f"{key}[0]")
    elif isinstance(base, type) and issubclass(base, Section):
        yield from numbers_of(base, f"{key}.")
    for part in arguments if origin in (types.UnionType, typing.Union) else ():
        if issubclass(part, Section) and not part.tag:  # those with a tag are roots of their own
            yield from numbers_of(part, f"{key}.")


NUMBERS = [(root, key, hint) for root in ROOTS for key, hint in numbers_of(root)]
IDS = [f"{root.__name__}:{key}" for root, key, _ in NUMBERS]


def tried(root: type[Section], key: str, text: str) -> str | None:
    """The line that refuses `key`=`text`, or None."""
    content = ROOTS[root]
    if "[0]" in key:  # the keys of list items are not given alone
        name, _, inner = key.partition("[0].")
        changed = dict(merge_overrides(content[name][0], [f"{inner}={text}"]))
        content = {**content, name: [changed, *content[name][1:]]}
    else:
        content = merge_overrides(content, [f"{key}={text}"])
    try:
        build(root, content, "r.yaml")
    except InputError as error:
        return str(error)
    return None


def test_every_section_is_looked_at() -> None:
    """Those that are part of none of the above would be missed."""
    for module in pkgutil.walk_packages(ernie_m.__path__, "ernie_m."):
        importlib.import_module(module.name)
    ours = [cls for cls in _subclasses(Section) if cls.__module__.startswith("ernie_m.")]
    reached = {cls for root in ROOTS for cls in [root, *_sections_in(root)]}
    assert len(ours) > 10
    reached |= {base for cls in reached for base in cls.__mro__ if issubclass(base, Section)}
    assert set(ours) <= reached


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _sections_in(cls: type[Section]) -> Iterator[type[Section]]:
    for hint in hints_of(cls).values():
        base, _ = described(hint)
        for part in (base, *typing.get_args(base)):
            if isinstance(part, type) and issubclass(part, Section):
                yield part
                yield from _sections_in(part)


@pytest.mark.parametrize(("root", "key", "hint"), NUMBERS, ids=IDS)
def test_a_number_is_in_its_range_or_refused_by_key_value_and_range(root: type[Section], key: str, hint: Any) -> None:
    base, allowed = described(hint)
    assert allowed is not None, f"{key} has no range; declare it as Annotated[{base.__name__}, Range(...)]"
    for text in VALUES:
        line = tried(root, key, text)
        if line is None:
            assert text == "0", f"{key} accepts {text}"
            assert allowed.zero, f"{key} accepts 0 without a reason"
            continue
        assert "\n" not in line
        cross_field = text == "0" and allowed.holds(0)
        if not cross_field:
            assert line.startswith(f"r.yaml: {key}: "), line
            assert line.endswith(f"expected {allowed.expected(base is int)}"), line
    for end in (allowed.least, allowed.most):
        assert end is None or allowed.holds(base(end))
    upper = allowed.most if allowed.most is not None else allowed.below
    assert upper is not None
    assert tried(root, key, repr(base(upper * 2 + 1))) is not None, "above the upper end"


def test_the_table_of_all_numbers() -> None:
    """Printed with -s: key, range, and what became of each value."""
    rows = []
    for root, key, hint in NUMBERS:
        base, allowed = described(hint)
        assert allowed is not None
        outcomes = ["refused" if tried(root, key, text) else f"taken: {allowed.zero}" for text in VALUES[:7]]
        rows.append([f"{root.__name__.replace('TrainingConfig', '')}:{key}", allowed.expected(base is int), *outcomes])
    print("\n" + table(["key", "expected", *VALUES[:7]], rows))
    assert len(rows) > 60


@section
class Inner(Section):
    rate: Annotated[float, Range(above=0, most=1)] = 0.5

    def check(self) -> None:
        if self.rate == 0.25:
            raise TypeError("a fault of ours inside of check")


@section
class Outer(Section):
    needed: Annotated[int, Range(least=1, most=10)]
    parts: tuple[Inner, ...] = ()
    shares: tuple[Annotated[float, Range(least=0, below=1, zero="nothing")], ...] = ()


def test_a_fault_inside_of_check_is_no_missing_key() -> None:
    with pytest.raises(TypeError, match="a fault of ours"):
        build(Outer, {"needed": 1, "parts": [{"rate": 0.25}]}, "r.yaml")
    with pytest.raises(InputError, match=r"^r\.yaml: missing key needed$"):
        build(Outer, {"parts": [{"rate": 0.5}]}, "r.yaml")


def test_ranges_hold_inside_of_lists_and_without_a_file_too() -> None:
    assert Outer(needed=10, shares=(0.0, 0.5)).shares == (0.0, 0.5)
    with pytest.raises(InputError, match=r"^shares\[1\]: 1\.0; expected a number from 0 and below 1; 0: nothing$"):
        Outer(needed=1, shares=(0.0, 1.0))
    with pytest.raises(InputError, match=r"^needed: 1\.5; expected a whole number from 1 to 10$"):
        Outer(needed=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^r\.yaml: parts\[0\]\.rate: 2\.0; expected a number above 0, up to 1$"):
        build(Outer, {"needed": 1, "parts": [{"rate": 2}]}, "r.yaml")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, True, "1", None, 10**400])
def test_what_is_no_finite_number_is_in_no_range(value: Any) -> None:
    assert not Range(least=-1e9, most=1e9, zero="in").holds(value)


# -- numbers of commands -------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """'plan' or 'data_prep build' -> function."""
    found: dict[str, Any] = {}
    for command, entry in COMMANDS.items():
        module = importlib.import_module(entry.module)
        name = re.search(r"\brun(?:_command)?\((\w+), called\)", inspect.getsource(module))
        assert name, entry.module
        component = getattr(module, name[1])
        if inspect.isclass(component):
            public = {key: value for key, value in vars(component).items() if not key.startswith("_")}
            found |= {f"{command} {key}": (component, key, function) for key, function in public.items()}
        else:
            found[command] = (component, "", component)
    return found


FUNCTIONS = commands()
OPTIONS = [
    (name, option)
    for name, (_, _, function) in FUNCTIONS.items()
    for option, hint in types_of(function).items()
    if described(hint)[0] in (int, float)
]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name} --{option}" for name, option in OPTIONS])
def test_a_number_of_a_command_is_in_its_range_or_refused_before_anything_runs(name: str, option: str) -> None:
    component, command, function = FUNCTIONS[name]
    base, allowed = described(types_of(function)[option])
    assert allowed is not None, f"{name}: --{option} has no range"
    parameters = inspect.signature(function).parameters
    default = parameters[option].default
    assert default in (None, inspect.Parameter.empty) or allowed.holds(default), "its own default"
    needed = [key for key, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY and key != option]
    given = [*([command] if command else []), *(f"--{key}=9" for key in needed)]
    for text in ("0", "-1", "1e30", "inf", "nan", "word", "9" * 400):
        line = refusal(component, name, [*given, f"--{option}={text}"])
        if line is None:
            assert allowed.zero if text == "0" else (text == "-1" and allowed.holds(-1)), f"accepts {text}"
        else:
            assert line == f"--{option} {text}: expected {allowed.expected(base is int)}"


def refusal(component: Any, name: str, arguments: list[str]) -> str | None:
    try:
        checked_arguments(component, name, arguments)
    except InputError as error:
        return str(error)
    return None


def test_there_are_numbers_of_commands() -> None:
    assert len(OPTIONS) > 30
