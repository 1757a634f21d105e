"""Does a build of torch have kernels for a GPU? If not, which build has? By version numbers alone, without torch.

`pip install torch` takes the wheel for the newest CUDA. Those for CUDA 12.8 and later have had no kernels for V100 (sm_70)
since torch 2.11; those for CUDA 12.6 have them up to torch 2.14.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ARCHITECTURE = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<special>[af]?)")
OLD_GPU_BUILD = "pip install 'torch>=2.6,<2.15' --index-url https://download.pytorch.org/whl/cu126"
NEW_GPU_BUILD = "pip install --upgrade torch, which brings the newest CUDA"
BUILDS = ((5, 0, None), (7, 5, OLD_GPU_BUILD), (1000, 0, NEW_GPU_BUILD))
"""(major, minor, build): the build for GPUs below that compute capability and not below the line before."""


def problem_of_build(capability: tuple[int, int], built_for: Sequence[str], version: str) -> tuple[str, str] | None:
    """(what is wrong, what to install) where torch `version` built for `built_for` cannot run on that GPU; None if it can.

    `built_for` is torch.cuda.get_arch_list(), e.g. ["sm_75", "sm_90", "compute_120"]; empty: a build without CUDA.
    """
    if any(_runs(capability, name) for name in built_for):
        return None
    build = next(build for major, minor, build in BUILDS if capability < (major, minor))
    built = " ".join(built_for) or "CPUs alone"
    what = f"torch {version} is built for {built}, not for compute capability {dotted(capability)}"
    return what, f"install one that is: {build}" if build else "no current torch has kernels for it: leave it out"


def parsed(capability: str) -> tuple[int, int] | None:
    """nvidia-smi's '7.0' -> (7, 0); None for anything else."""
    found = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return (int(found[1]), int(found[2])) if found else None


def dotted(capability: tuple[int, int]) -> str:
    """(7, 0) -> '7.0'."""
    return f"{capability[0]}.{capability[1]}"


def _runs(capability: tuple[int, int], name: str) -> bool:
    """Compiled code (sm_XY) runs on X.Y and later minor versions of X; intermediate code (compute_XY) on all from X.Y on.

    sm_90a and compute_90a run on that capability alone, sm_100f and compute_100f on its family. Other makers' names are not
    judged.
    """
    found = _ARCHITECTURE.fullmatch(name)
    if not found:
        return True
    built = int(found["major"]), int(found["minor"])
    if found["special"] == "a":
        return built == capability
    is_for_all = found["kind"] == "compute" and not found["special"]
    return built <= capability and (is_for_all or built[0] == capability[0])
