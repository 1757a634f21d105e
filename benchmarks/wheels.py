"""Wheels of all that `make gpu` needs but torch, for a machine without a network.

    python benchmarks/wheels.py --to wheels [--python 3.12]

The versions are those of the environment that this runs in, with everything they require in turn, but not torch and what
comes with it (CUDA's libraries, triton): the machine with the card has its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

NEEDED = ("deepspeed", "transformers", "sentencepiece", "protobuf", "pyarrow", "python-xz", "numpy", "safetensors", "pyyaml")
NEEDED += ("fire", "matplotlib", "langcodes", "zstandard", "babel", "psutil", "pytest")
WITH_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*", re.IGNORECASE)


def name_of(requirement: str) -> str:
    """'PyYAML>=6; extra == "x"' -> 'pyyaml'."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[._-]+", "-", found[0].lower()) if found else ""


def closure(names: tuple[str, ...]) -> dict[str, str]:
    """Name -> installed version of these packages and of all that they require, without torch's."""
    found: dict[str, str] = {}
    ahead = [name_of(name) for name in names]
    while ahead:
        name = ahead.pop()
        if name in found or WITH_TORCH.fullmatch(name):
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # required on another system or Python alone
            continue
        ahead += [name_of(text) for text in requires(name) or () if "extra ==" not in text]
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("wheels"))
    parser.add_argument("--python", help="of the machine with the card, e.g. 3.12; by default this one's")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    pip = [sys.executable, "-m", "pip"]
    pinned = [f"{name}=={number}" for name, number in closure(NEEDED).items()]
    for requirement in pinned:
        ready = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(arguments.to)]
        ready += ["--python-version", arguments.python] if arguments.python else []
        built = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(arguments.to)]
        done = subprocess.run([*pip, *ready, requirement], capture_output=True, text=True, check=False)
        if done.returncode:  # no wheel of it anywhere: pure Python (deepspeed) is built here
            subprocess.run([*pip, *built, requirement], check=True)
    (arguments.to / "requirements.txt").write_text("\n".join(pinned) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in arguments.to.glob("*.whl"))
    print(f"{len(pinned)} wheels for Python {arguments.python or here}, {size / 2**20:,.0f} MiB, in {arguments.to}")


if __name__ == "__main__":
    main()
