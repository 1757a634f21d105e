"""One table of commands: a module, a script in launcher/ and a line of help for each; only the one asked for is imported."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base import ranges
from ernie_m.base.shipped import DS_CONFIGS, HOSTFILES, RECIPES
from ernie_m.commands import choice
from ernie_m.commands.choice import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
OURS = {name for name in COMMANDS if name != "data_prep"}
"""data_prep is a package of its own, with its own `python -m data_prep`."""


def call(*words: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """`ernie-m WORDS` in a Python of its own, and behind it `more`."""
    program = f"import sys; sys.argv[1:] = {words!r}\nfrom ernie_m.commands.choice import main; main()\n{more}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)


def test_each_command_has_a_module_and_a_script_and_there_are_no_others() -> None:
    assert {path.stem for path in (ROOT / "launcher").glob("*.py")} == OURS
    files = {path.stem for path in (ROOT / "ernie_m" / "commands").glob("*.py")}
    second = {file for file in files - OURS if file.startswith(tuple(f"{name}_" for name in OURS))}
    assert files - second == OURS | {"__init__", "choice"}, "a second file of a command is named after it"
    assert {COMMANDS[name].module for name in OURS} == {f"ernie_m.commands.{name}" for name in OURS}


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_script_is_thin_and_names_itself(name: str) -> None:
    text = (ROOT / "launcher" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 20
    assert f"from ernie_m.commands.{name} import main\n" in text
    assert f'    main("launcher/{name}.py")\n' in text
    assert f" launcher/{name}.py " in (ast.get_docstring(ast.parse(text)) or ""), "what the user types"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_says_by_which_name_it_was_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["somewhere/ernie-m", name.replace("_", "-"), "--help"])
    with pytest.raises(SystemExit) as ended:
        choice.main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert f"ernie-m {name.replace('_', '-')}" in shown.out + shown.err
    assert callable(importlib.import_module(COMMANDS[name].module).main)


def test_only_the_command_asked_for_is_imported() -> None:
    modules = "print(*sorted(n for n in sys.modules if n.startswith(('ernie_m.commands.', 'data_prep', 'torch'))))"
    listed = call("--help", more=modules)
    assert listed.stdout.splitlines()[-1] == "ernie_m.commands.choice"
    assert all(f"  {name} " in listed.stdout and COMMANDS[name].summary in listed.stdout for name in COMMANDS)
    alone = call(more=modules)
    assert alone.stdout == listed.stdout


def test_a_mistyped_command_is_one_line_with_the_nearest_name() -> None:
    done = call("pretrian", "--run", "x")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: unknown command pretrian, did you mean `pretrain`? expected one of data_prep, plan, "
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_command_takes_what_stands_behind_its_name() -> None:
    done = call("inspect-step", "--step", "many", "--run", "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: --step many: expected a whole number")


@pytest.mark.skipif(not (ROOT / "ernie_m" / "shipped" / "recipes").is_symlink(), reason="not a checkout")
def test_in_a_checkout_shipped_files_are_those_that_people_look_at() -> None:
    assert (RECIPES, DS_CONFIGS, HOSTFILES) == (ROOT / "launcher" / "recipes", ROOT / "ds_configs", ROOT / "hostfiles")


def functions_of(name: str) -> list[tuple[list[str], Callable[..., Any]]]:
    """Words in front of the options, and the function that takes these, for each command of a module."""
    module = importlib.import_module(COMMANDS[name].module)
    if not hasattr(module, "Commands"):
        return [([], getattr(module, name))]
    return [([of.replace("_", "-")], call) for of, call in vars(module.Commands).items() if not of.startswith("_")]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_what_is_written_of_each_option_and_its_range(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAGER", "cat")
    for words, function in functions_of(name):
        monkeypatch.setattr(sys, "argv", ["ernie-m", name.replace("_", "-"), *words, "--help"])
        with pytest.raises(SystemExit):
            choice.main()
        page = "".join(capsys.readouterr())
        assert not re.search(r"\S {2,}\S", page.partition("FLAGS")[2]), "where a line of a docstring ends"
        shown = " ".join(page.split())
        told = inspect.getdoc(function) or ""
        described = re.split(r"\n    (?=\w+: )", told.partition("\nArgs:")[2].partition("\n\n")[0])[1:]
        options = set(inspect.signature(function).parameters) - {"self"}
        assert {text.partition(":")[0].lstrip("*") for text in described} == options, words
        for text in described:
            assert " ".join(text.partition(":")[2].split()) in shown, (words, text)
        for option, hint in typing.get_type_hints(function, include_extras=True).items():
            base, allowed = ranges.described(hint)
            assert allowed is None or allowed.expected(base is int) in shown, (words, option)
        assert "Annotated[" not in shown
