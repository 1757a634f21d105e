"""A distribution of a few packages, built for a test: its `apt-get` and `apt-cache` go before the real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")
SCRIPTS = {
    "apt-get": 'shift 3; for name in "$@"; do cp "$APT/$name"_*.deb . || exit 100; done',
    "apt-cache": """cd "$APT"
case $1 in
pkgnames) ls "$2"*.deb | sed "s/_.*//" ;;
show) shift 2; for name in "$@"; do ls "${name}"_*.deb | sed "s/_.*//; s/^/Package: /"; done ;;
esac""",
}


def with_apt(folder: Path) -> Path:
    """`folder` with a `bin` of its apt."""
    (folder / "bin").mkdir()
    for name, script in SCRIPTS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    return folder


def chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process see the packages in `folder`."""
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("APT", str(folder))


def add_package(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Build a package of these files in `folder`."""
    root = folder / name
    control = f"Package: {name}\nVersion: 1:2\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: text\n"
    for path, content in {"DEBIAN/control": control.encode(), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    subprocess.run(
        ["dpkg-deb", "--build", "-Znone", str(root), f"{folder}/{name}_1%3a2_all.deb"], check=True, capture_output=True
    )
