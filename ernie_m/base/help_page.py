"""What --help says of an option: what it is for, what it takes with its range, and its default.

    --held_out=HELD_OUT
        share of the pairs that is measured on, and not trained
        a number above 0, up to 0.5; default: 0.05

Fire's own page shows Python's type hints, and takes a line of a docstring that begins with `default:` for another option.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from fire import docstrings, helptext

from ernie_m.base.ranges import described, shown

WIDTH = 110
"""Characters of a line, before fire indents it."""

_parse, _short_flags = docstrings.parse, helptext._GetShortFlags


def put_in_place() -> None:
    """Let fire read docstrings and write options in this way."""
    docstrings.parse = parsed
    helptext._GetShortFlags = lambda options: [letter for letter in _short_flags(options) if letter != "h"]  # -h is for help
    helptext._CreateFlagItem = option_item
    helptext._CreateArgItem = argument_item


def show_ranges(component: Callable[..., Any]) -> None:
    """Put types in the place of their names as text, in a function or the commands of a class: fire shows what it finds."""
    commands = [of for name, of in vars(component).items() if not name.startswith("_")] if inspect.isclass(component) else []
    for function in commands or [component]:
        function.__annotations__ = typing.get_type_hints(function, include_extras=True)


def parsed(docstring: str | None) -> Any:
    """As fire's `docstrings.parse`, with each entry of `Args:` whole and its lines joined."""
    read = _parse(docstring)
    section = inspect.cleandoc(docstring or "").partition("\nArgs:")[2].partition("\n\n")[0]
    entries = [re.fullmatch(r"\*?(\w+): (.*)", entry, re.DOTALL) for entry in re.split(r"\n {4}(?! )", section)[1:]]
    told = [docstrings.ArgInfo(found[1], None, " ".join(found[2].split())) for found in entries if found]
    return read._replace(args=told)


def option_item(
    option: str, docstring: Any, spec: Any, required: bool = False, flag_string: str | None = None, short_arg: bool = False
) -> str:
    """An option, in the place of fire's `_CreateFlagItem`."""
    defaults = dict(zip(spec.args[-len(spec.defaults) :], spec.defaults, strict=True)) if spec.defaults else {}
    default = {**defaults, **spec.kwonlydefaults}.get(option)
    takes = f"default: yes; --no{option}: no" if default is True else taken(spec.annotations.get(option), default)
    word = option.rstrip("_")  # --from: Python keeps the word for itself
    name = f"--{word}" if isinstance(default, bool) else flag_string or f"--{word}={word.upper()}"
    short = f"-{option[0]}, " if short_arg else ""
    return _item(f"{short}{name}{' (required)' * required}", option, docstring, takes)


def argument_item(argument: str, docstring: Any, spec: Any) -> str:
    """An argument without a name, in the place of fire's `_CreateArgItem`."""
    return _item(argument.upper(), argument, docstring, taken(spec.annotations.get(argument), None))


def taken(hint: Any, default: Any) -> str:
    """'a whole number from 1 to 4,096; default: 8'; nothing of an option that takes any text and has no default."""
    base, allowed = described(hint)
    values = [] if allowed is None else [allowed.expected(base is int)]
    if default or (allowed and default is not None):
        values.append(f"default: {shown(default) if allowed else default}")
    return "; ".join(values)


def _item(name: str, option: str, docstring: Any, takes: str) -> str:
    said = next((entry.description for entry in docstring.args or [] if entry.name == option), "")
    lines = [line for text in (said, takes) for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False)]
    return "\n".join([name, *(f"    {line}" for line in lines)])
