"""Strict configuration: defaults in dataclasses beside their owners, then a YAML recipe, then `key.path=value`.

A section is a frozen dataclass with a docstring under each field. Each number is declared with its range
(ernie_m.base.ranges). `check` tests what ranges cannot say, for example that two values fit together. Unknown keys and wrong
types are errors that name the file, the key and the nearest match. Nothing is dropped silently.
"""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, dataclass_transform

import yaml

from ernie_m.base.console import InputError
from ernie_m.base.files import read_small
from ernie_m.base.plain_yaml import load_yaml
from ernie_m.base.ranges import described, faults
from ernie_m.base.run_files import CONFIG_FILE
from ernie_m.base.shipped import RECIPES, shipped_recipes

PLAIN = (float, int, bool, str)
MOST_EXTENDED = 20  # recipes in a row

T = TypeVar("T")
S = TypeVar("S", bound="Section")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[T]) -> type[T]:
    """Make a configuration section: a frozen, keyword-only dataclass."""
    return dataclass(frozen=True, kw_only=True)(cls)


class Section:
    """Base of all sections; numbers must be in their ranges, and `check` runs on construction."""

    tag: ClassVar[str] = ""
    """Where one of several sections may stand: the key whose value says that it is this one."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that other sections in this place have -> why this one has them not."""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():  # type: ignore[arg-type]
            for fault in faults(getattr(self, name), hint, name):
                raise InputError(fault)
        self.check()

    def check(self) -> None:
        """Raise InputError through `require` for values that are each in range but do not fit together."""

    def require(self, holds: bool, key: str, expected: str) -> None:
        """Raise InputError naming `key`, its value and what was expected, unless `holds`."""
        if not holds:
            raise InputError(f"{key}: {getattr(self, key)!r}; expected {expected}")


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Field -> type with its range, of a section."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def read_yaml(path: Path) -> dict[str, Any]:
    """Content of a YAML mapping; raises InputError for a missing or broken file."""
    try:
        content = load_yaml(read_small(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; expected a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for 2026-13-45, which looks like a date
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a YAML mapping of keys, found {type(content).__name__}")
    return content


def read_saved(run: Path, *needed: str) -> dict[str, Any]:
    """The configuration that a pre-training saved in its folder `run`.

    Raises InputError where there is none, or one that lacks a key that is needed, such as data_identity.folder.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{run}: not a run folder ({CONFIG_FILE} is missing); expected the --run of a pre-training")
    content = read_yaml(path)
    lacking = [key for key in needed if not _has(content, key.split("."))]
    if lacking:
        raise InputError(f"{path}: {lacking[0]} is missing; expected the {CONFIG_FILE} that a pre-training wrote")
    return content


def _has(content: Any, keys: Sequence[str]) -> bool:
    return not keys or (isinstance(content, dict) and keys[0] in content and _has(content[keys[0]], keys[1:]))


def read_recipe(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's YAML. With `extends: NAME`, keys that it does not set come from NAME.yaml beside it or the shipped one."""
    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or not re.fullmatch(r"\w[\w.-]*", base):
        expected = "the name of a recipe in the same folder or a shipped one, without .yaml"
        raise InputError(f"{path}: extends: {base!r}; expected {expected}")
    beside, chain = path.with_name(f"{base}.yaml"), (*extended_by, path)
    base_path = beside if beside.is_file() else RECIPES / beside.name
    if not base_path.is_file():
        raise InputError(f"{path}: extends: {base}; expected {beside}, or one of the shipped recipes: {shipped_recipes()}")
    if base_path in chain or len(chain) > MOST_EXTENDED:
        raise InputError(f"{path}: extends: {base}; it extends this recipe in turn, expected one that does not")
    return _merged(read_recipe(base_path, chain), content)


def merge_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`content` with each 'key.path=value' applied (values are YAML); raises InputError for a text of another form."""
    merged = _deep_copy(content)
    for override in overrides:
        path, equals, value = str(override).partition("=")
        if not equals or not all(path.split(".")):
            raise InputError(f"argument {override!r}: expected key.path=value, e.g. optimizer.peak_learning_rate=1e-4")
        *parents, last = path.split(".")
        node = merged
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"argument {override!r}: {parent} holds no keys")
        try:
            node[last] = load_yaml(value)
        except (yaml.YAMLError, ValueError):
            raise InputError(f"argument {override!r}: {value!r} is not valid YAML; quote it if it is text") from None
    return merged


def build(cls: type[S], content: Mapping[str, Any], source: str, prefix: str = "") -> S:
    """Make a section from a mapping; raises InputError with `source` and the dotted key for a value that does not fit."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            if key in cls.elsewhere:
                raise InputError(f"{source}: {prefix}{key}: {cls.elsewhere[key]}")
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
    missing = [name for name, f in known.items() if name not in content and f.default is f.default_factory]
    if missing:
        raise InputError(f"{source}: missing key {prefix}{missing[0]}")
    hints = hints_of(cls)  # type: ignore[arg-type]
    values = {key: _convert(value, hints[key], source, f"{prefix}{key}") for key, value in content.items()}
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{source}: {prefix}{error}") from None


def to_mapping(config: Any) -> dict[str, Any]:
    """A section as plain YAML-able content."""
    return _deep_copy(asdict(config))


def differing_keys(saved: Mapping[str, Any], present: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines 'key: saved value -> present value' for all that differs between two nested mappings."""
    lines = []
    for key in sorted({*saved, *present}):
        old, new = saved.get(key), present.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differing_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _deep_copy(item) for key, item in value.items()}
    return [_deep_copy(item) for item in value] if isinstance(value, list | tuple) else value


def one_section(hint: Any, content: Any) -> tuple[Any, Any]:
    """Of a union of sections the one that `content` is meant for, and its content; other hints and contents unchanged.

    It is the one whose `tag` has a value, else the one without a tag. A tag without a value is left out.
    """
    sections = [part for part in typing.get_args(hint) if isinstance(part, type) and issubclass(part, Section)]
    if len(sections) < 2 or not isinstance(content, Mapping):
        return hint, content
    given = {key: value for key, value in content.items() if value is not None or all(key != s.tag for s in sections)}
    tagged = [part for part in sections if part.tag in given]
    return (tagged or [part for part in sections if not part.tag])[0], given


def _convert(value: Any, hint: Any, source: str, key: str) -> Any:
    if value is None and typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint):
        return None
    hint, allowed = described(hint)
    hint, value = one_section(hint, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise InputError(f"{source}: {key}: {value!r}; expected one of {', '.join(map(str, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, arguments[0], source, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {name: _convert(item, arguments[1], source, f"{key}.{name}") for name, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Section) and isinstance(value, Mapping):
        return build(hint, value, source, f"{key}.")
    plain = [part for part in (arguments if origin in (typing.Union, types.UnionType) else (hint,)) if part in PLAIN]
    converted = next((found for part in plain if (found := _as_plain(value, part)) is not None), None)
    if converted is None:
        expected = hint.__name__ if hint in PLAIN else ("a mapping of keys" if origin is not tuple else "a list")
        expected = allowed.expected(hint is int) if allowed is not None else expected
        raise InputError(f"{source}: {key}: {value!r}; expected {expected}")
    return converted


def _as_plain(value: Any, hint: Any) -> Any:
    """The value as a `hint`, None for what is none: an int may be a float, a bool is never a number."""
    if hint is not float or isinstance(value, bool):
        return value if type(value) is hint else None
    try:  # YAML 1.1 reads 1e-4 as a string
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
