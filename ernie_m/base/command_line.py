"""Command lines with python-fire, checked before anything runs.

Fire alone runs the whole command and rejects an unknown option only afterwards. It also reads texts such as 1e3 as numbers.
Here a wrong command and an unknown, repeated or missing option are refused before anything runs, in one line that names the
nearest match. So is a number outside the range of its declaration, Annotated[int, Range(...)].
"""

from __future__ import annotations

import atexit
import difflib
import gc
import inspect
import os
import shlex
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import fire

from ernie_m.base import help_page
from ernie_m.base.console import InputError, run_cleanly
from ernie_m.base.ranges import described, number_of

FLAG_VALUES = ("True", "False")
"""What fire knows for yes and no; every other word would be a yes."""
Options = Mapping[str, inspect.Parameter]
OVERRIDES = "overrides"
"""Name of the parameter that takes key.path=value, as many as there are."""

help_page.put_in_place()


def run(component: Callable[..., Any], name: str) -> None:
    """Run a function, or a class whose public methods are commands, on the arguments of this process; exits cleanly.

    name: how the user called it: a script, or a program and one of its commands, as in "ernie-m plan".
    """
    # The last thing that Python does is to look through all of torch's objects for cycles: a second of every rank, for which
    # whoever waits for the command waits too.
    atexit.register(gc.freeze)
    program, *words = name.split()
    shown: Any = component
    for word in reversed(words):  # fire would put a name of two words in quotes
        shown = {word: shown}
    run_cleanly(lambda: fire.Fire(shown, command=[*words, *checked_arguments(component, name, sys.argv[1:])], name=program))


def nearest(word: str, words: Iterable[str]) -> str:
    """', did you mean `x`?' or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean `{found[0]}`?" if found else ""


def words_in(text: str, option: str) -> tuple[str, ...]:
    """The words of a text that a shell would split; `option` is what gives it. Raises InputError for an open quotation."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"{option} {text}: {error}; expected words as in a shell, each quotation mark closed") from None


def listed(option: str, value: str | None, expected: str) -> list[str]:
    """The words of a list with commas; none where it is not given. Raises InputError where one is empty."""
    words = [] if value is None else [word.strip() for word in value.split(",")]
    if not all(words):
        raise InputError(f"--{option} {value}: expected {expected}")
    return words


def with_home_expanded(path: str, option: str) -> str:
    """A path whose leading ~ is replaced by the home folder.

    The shell does not do it in --run=~/x, in quotes or for other hosts.
    Raises InputError where there is no such user: the path would become a folder called ~name.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise InputError(f"{option} {path}: there is no home folder of {expanded.partition('/')[0]}; give the whole path")
    return expanded


def checked_arguments(component: Callable[..., Any], name: str, arguments: Sequence[str]) -> list[str]:
    """The arguments for fire; raises InputError for those that `component` would not take."""
    if "--help" in arguments or "-h" in arguments or (inspect.isclass(component) and not arguments):
        help_page.show_ranges(component)
        return [*[argument for argument in arguments if not argument.startswith("-")][:1], "--help"]
    command: list[str] = []
    if inspect.isclass(component):
        commands = [key for key in vars(component) if not key.startswith("_")]
        chosen = arguments[0].replace("-", "_")
        if chosen not in commands:
            shown = ", ".join(key.replace("_", "-") for key in commands)
            raise InputError(f"unknown command {arguments[0]}{nearest(chosen, commands) or ','} expected one of {shown}")
        name, command, arguments, component = arguments[0], [chosen], arguments[1:], getattr(component, chosen)
    options = {key: option for key, option in inspect.signature(component).parameters.items() if key != "self"}
    several = [key for key, option in options.items() if option.kind is option.VAR_POSITIONAL]
    options = {key: option for key, option in options.items() if option.kind is not option.VAR_POSITIONAL}
    rest, given = _given_options(name, arguments, options, takes_rest=bool(several))
    if several == [OVERRIDES]:
        _check_different(name, [override.partition("=")[0] for override in rest])
    missing = [key for key, option in options.items() if option.default is option.empty and key not in given]
    if missing:
        raise InputError(f"{name}: --{missing[0]} is missing; --help explains the options")
    given, types = {key: with_home_expanded(value, f"--{key}") for key, value in given.items()}, types_of(component)
    given = {key: number_of(value, types[key], f"--{key}") for key, value in given.items()}
    flags = [f"--{key}={value!r}" if described(types[key])[0] is str else f"--{key}={value}" for key, value in given.items()]
    return [*command, *(repr(text) for text in rest), *flags]


def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Option -> type with its range, of a command."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {key: hint for key, hint in hints.items() if key in inspect.signature(function).parameters}


def _given_options(
    command: str, arguments: Sequence[str], options: Options, takes_rest: bool
) -> tuple[list[str], dict[str, str]]:
    rest: list[str] = []
    keys: list[str] = []
    given: dict[str, str] = {}
    awaiting = ""
    for argument in arguments:
        if awaiting and (not argument.startswith("--") or " " in argument.partition("=")[0]):  # "--ssh_port 2222": a value
            given[awaiting], awaiting = argument, ""
            continue
        if takes_rest and not argument.startswith("-"):
            rest.append(argument)
            continue
        key, has_value, value = argument.lstrip("-").partition("=")
        key = key.replace("-", "_")
        key = f"{key}_" if f"{key}_" in options else key  # --from: Python keeps the word for itself
        if not argument.startswith("-") or not key:
            raise InputError(f"{command}: unexpected `{argument}`; options are given as --name value")
        if len(key) == 1:  # fire's short forms
            key = next((option for option in options if option.startswith(key)), key)
        negated = key.removeprefix("no")
        if key not in options and negated in options and isinstance(options[negated].default, bool):
            given[negated], awaiting = "False", ""
            keys.append(negated)
            continue
        if key not in options:
            expected = ", ".join(f"--{option.rstrip('_')}" for option in options)
            as_value = f"; as the value of --{awaiting} it is --{awaiting}={argument}" if awaiting else ""
            raise InputError(
                f"{command}: unknown option --{key}{nearest(key, options) or ','} expected {expected}{as_value}"
            )
        is_flag = isinstance(options[key].default, bool)
        given[key] = value if has_value else ("True" if is_flag else "")
        awaiting = "" if has_value or is_flag else key
        keys.append(key)
    for key, value in given.items():
        if not value:
            raise InputError(f"{command}: --{key} has no value; options are given as --name value")
        if isinstance(options[key].default, bool) and value not in FLAG_VALUES:
            raise InputError(f"{command}: --{key}={value}; a flag takes no value: --{key}, or --no{key}")
    _check_different(command, [f"--{key.rstrip('_')}" for key in keys])
    return rest, given


def _check_different(command: str, keys: Sequence[str]) -> None:
    """Raise InputError for an option or key that is given twice: which of its values is meant cannot be known."""
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise InputError(f"{command}: {twice[0]} is given {Counter(keys)[twice[0]]} times; expected once")
