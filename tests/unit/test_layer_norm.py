"""Which layer norm is chosen, and why; apex's own kernels are for GPU tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ernie_m.models.layer_norm import choose_layer_norm, layer_norm

CUDA = torch.device("cuda", 0)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Put a package named apex with these files first on the path."""
    (folder / "apex").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (folder / "apex" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def forgotten() -> object:
    """No package of a test is left to the next one."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def test_on_cpu_it_is_torchs() -> None:
    choice = choose_layer_norm(torch.device("cpu"))
    assert str(choice) == "layer norm: torch (cpu device; apex's runs on CUDA only)"
    assert layer_norm(choice.value) is nn.LayerNorm


@pytest.mark.skipif(importlib.util.find_spec("apex") is not None, reason="apex is installed")
def test_without_apex_it_is_torchs() -> None:
    assert str(choose_layer_norm(CUDA)) == "layer norm: torch (apex is not installed)"


@pytest.mark.parametrize(
    "files",
    [
        {},  # PyPI's: another package
        {"__init__": "import pyramid_of_pypi"},
        {"normalization": "class FusedLayerNorm:\n    def __init__(self, width):\n        import fused_layer_norm_cuda"},
    ],
)
def test_an_apex_without_kernels_is_not_taken(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, **files)
    choice = choose_layer_norm(CUDA)
    assert choice.value == "torch"
    assert choice.reason.startswith("the apex that is installed is not NVIDIA's with its kernels: ")
    assert "No module named" in choice.reason


def test_one_that_can_be_constructed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, normalization="import torch\n\nclass FusedLayerNorm(torch.nn.LayerNorm):\n    pass\n")
    choice = choose_layer_norm(CUDA)
    assert choice.value == "apex"
    norm = layer_norm(choice.value)(16, eps=1e-5)
    assert type(norm).__name__ == "FusedLayerNorm"
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]
