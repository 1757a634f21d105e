"""Debian's packages, downloaded and read without being installed: text that comes with programs, in many languages.

`apt-get download` checks what it brings against the signed lists of the distribution; the files of a package are read from
it as a stream, nothing is unpacked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, write_json

NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)_(?P<version>[^_]+)_[a-z0-9]+\.deb")
LARGEST_FILE = 1 << 26
"""Bytes of one file that is read; the largest there is, a dictionary, has 17 million."""
RECORD = "packages.json"
"""In a corpus's folder: which packages its files are made of."""
UPDATE = "`apt-get update` as root may be what is missing"


@dataclass(frozen=True)
class Package:
    """A package that is here as a file."""

    name: str
    version: str
    path: Path

    def files(self, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
        """(match, content) of every file whose path in the package matches all of `pattern`, in the package's order."""
        command = ["dpkg-deb", "--fsys-tarfile", str(self.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as unpacking:
            try:
                with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                    for member in archive:
                        found = re.fullmatch(pattern, member.name.removeprefix("./"))
                        if found and member.size > LARGEST_FILE:
                            raise InputError(
                                f"{self.path}: {member.name} has {member.size:,} bytes; expected {LARGEST_FILE:,} at most"
                            )
                        content = archive.extractfile(member) if found and member.isfile() else None
                        if found and content:
                            yield found, content.read()
            except tarfile.TarError as error:
                raise InputError(
                    f"{self.path}: not a whole package ({error}); remove it and give the command again"
                ) from None

    def told(self) -> dict[str, str]:
        """What says which package it is."""
        return {"name": self.name, "version": self.version, "sha256": sha256_of(self.path)}


def require_apt(corpus: str) -> None:
    """Raise InputError where Debian's tools are not at hand."""
    missing = [tool for tool in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise InputError(
            f"--corpus {corpus}: {missing[0]} is not here, and this text comes in Debian's packages; expected Debian, "
            "Ubuntu or another system with apt (a container of debian:stable will do); copy the folder from there"
        )


def available(prefix: str, folder: Path) -> set[str]:
    """The names of packages that begin with `prefix`, without it: those that apt knows, and those in `folder` already."""
    done = subprocess.run(["apt-cache", "pkgnames", prefix], capture_output=True, text=True, check=False)
    return {name.removeprefix(prefix) for name in (*done.stdout.split(), *_here(folder)) if name.startswith(prefix)}


def offered(names: Sequence[str], folder: Path) -> list[str]:
    """Those of `names` that apt can download, or that are in `folder` already, in their order."""
    command = ["apt-cache", "show", "--no-all-versions", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {line.removeprefix("Package: ") for line in done.stdout.splitlines() if line.startswith("Package: ")}
    return [name for name in names if name in found | _here(folder).keys()]


def recorded(folder: Path) -> dict[str, dict[str, str]]:
    """name -> what is told of each package that the files in a corpus's folder are made of; none if nothing is recorded."""
    path = folder / RECORD
    try:
        return {str(told["name"]): dict(told) for told in read_json(path)} if path.exists() else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: expected a list of packages with their names; give another --to") from None


def record(folder: Path, brought: Iterable[Package]) -> None:
    """Add to the packages that are recorded there; a package that is there again takes its place."""
    found = recorded(folder) | {told["name"]: told for told in (package.told() for package in brought)}
    write_json(folder / RECORD, [found[name] for name in sorted(found)])


def bring(names: list[str], folder: Path) -> list[Package]:
    """The packages of these names, downloaded to `folder` where they are not there yet. InputError if one does not come."""
    folder.mkdir(parents=True, exist_ok=True)
    here = _here(folder)
    if missing := [name for name in names if name not in here]:
        command = ["apt-get", "download", "-o", "APT::Sandbox::User=root", *missing]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        here = _here(folder)
        if lost := [name for name in missing if name not in here]:
            said = next((line for line in done.stderr.splitlines() if line.startswith("E:")), f"exit code {done.returncode}")
            raise InputError(f"{lost[0]}: apt-get could not download it ({said}); {UPDATE}; the same command again goes on")
    return [here[name] for name in names]


def _here(folder: Path) -> dict[str, Package]:
    """The newest package of each name; apt gives a file its name when it is whole."""
    matches = (
        (path, NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.deb"), key=lambda path: path.stat().st_mtime)
    )
    return {
        found["name"]: Package(found["name"], found["version"].replace("%3a", ":"), path) for path, found in matches if found
    }
