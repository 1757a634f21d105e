"""Which GPU a build of torch has kernels for, and which build to take instead."""

from __future__ import annotations

import pytest

from ernie_m.base.gpu_build import parsed, problem_of_build

CUDA_130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120"]
CUDA_126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((7, 0), CUDA_130, False),
        ((7, 0), CUDA_126, True),
        ((7, 2), CUDA_126, True),  # code for 7.0 runs on all of 7.x from there on
        ((7, 5), CUDA_130, True),
        ((8, 9), CUDA_130, True),
        ((8, 0), ["sm_86"], False),  # not before its minor version
        ((9, 0), CUDA_126, True),
        ((10, 0), CUDA_126, False),
        ((12, 1), CUDA_130, True),
        ((13, 0), CUDA_130, True),  # compute_120: compiled at the start
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((7, 0), ["compute_60"], True),  # intermediate code alone
        ((10, 3), ["compute_100f"], True),
        ((12, 0), ["compute_100f"], False),  # of its family alone
        ((9, 0), [], False),
        ((9, 4), ["gfx90a", "gfx942"], True),  # AMD's: not judged
    ],
)
def test_code_runs_where_it_was_compiled_for(capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert (problem_of_build(capability, built_for, "2.13.0") is None) == runs


@pytest.mark.parametrize(
    ("capability", "built_for", "says", "remedy"),
    [
        ((7, 0), CUDA_130, "not for compute capability 7.0", "whl/cu126"),
        ((6, 1), CUDA_130, "not for compute capability 6.1", "whl/cu126"),
        ((10, 0), CUDA_126, "built for sm_50 sm_60", "--upgrade torch"),
        ((7, 0), [], "built for CPUs alone", "whl/cu126"),
        ((3, 5), CUDA_126, "capability 3.5", "leave it out"),
    ],
)
def test_the_build_to_install_is_named(capability: tuple[int, int], built_for: list[str], says: str, remedy: str) -> None:
    problem = problem_of_build(capability, built_for, "2.13.0+cu130")
    assert problem is not None
    assert "torch 2.13.0+cu130" in problem[0]
    assert says in problem[0]
    assert remedy in problem[1]


def test_capabilities_are_read_as_nvidia_smi_writes_them() -> None:
    assert [parsed(text) for text in ("7.0", "12.1", "[N/A]", "")] == [(7, 0), (12, 1), None, None]
