"""The layer norm: the fused kernel of NVIDIA's apex if it is installed, else torch's. Same parameters, same names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ernie_m.base.console import Choice


def choose_layer_norm(device: torch.device) -> Choice:
    """The backend on `device`, "apex" or "torch", with the reason.

    A layer is made, to see whether apex's kernels were built. The package that PyPI calls apex is another one.
    """
    if device.type != "cuda":
        return Choice("layer norm", "torch", f"{device.type} device; apex's runs on CUDA only")
    if importlib.util.find_spec("apex") is None:
        return Choice("layer norm", "torch", "apex is not installed")
    try:
        _apex()(8)
    except Exception as error:  # any package may be called apex
        return Choice("layer norm", "torch", f"the apex that is installed is not NVIDIA's with its kernels: {error}")
    return Choice("layer norm", "apex", "NVIDIA's apex is installed")


def layer_norm(backend: str) -> Callable[..., nn.Module]:
    """The class of the backend: (width, eps=...) -> module."""
    return _apex() if backend == "apex" else nn.LayerNorm


def _apex() -> Any:
    return importlib.import_module("apex.normalization").FusedLayerNorm
