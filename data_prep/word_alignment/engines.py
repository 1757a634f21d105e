"""Which of the two engines does the inner loops."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from data_prep.word_alignment import numpy_engine
from data_prep.word_alignment.symmetrization import grow_pairs
from ernie_m.base.console import Choice, InputError

AUTO, NUMBA, NUMPY = "auto", "numba", "numpy"
ENGINES = (AUTO, NUMBA, NUMPY)


class Engine(NamedTuple):
    """The inner loops; both engines give the same bits."""

    types_of: Callable[..., Any]
    cells_of: Callable[..., Any]
    expect: Callable[..., Any]
    grow_pairs: Callable[..., Any]


def chosen(name: str) -> Choice:
    """The engine for --engine `name`. Raises InputError for one that is not there."""
    if name not in ENGINES:
        raise InputError(f"--engine {name}: expected {', '.join(ENGINES)}")
    is_there = importlib.util.find_spec("numba") is not None
    if name == NUMBA and not is_there:
        raise InputError("--engine numba: not installed; pip install 'ernie-m[align]', or leave the option out")
    if name == AUTO:
        why = "installed" if is_there else "numba is not installed; with it large texts take less memory: pip install numba"
        return Choice("aligner", NUMBA if is_there else NUMPY, why)
    return Choice("aligner", name, "--engine")


@cache
def engine(name: str) -> Engine:
    """The inner loops of numba or of numpy."""
    if name == NUMPY:
        return Engine(numpy_engine.types_of, numpy_engine.cells_of, numpy_engine.expect, grow_pairs)
    compiled = importlib.import_module("data_prep.word_alignment.numba_engine")
    return Engine(compiled.types_of, compiled.cells_of, compiled.expect, compiled.grow_pairs)
