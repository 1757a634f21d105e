"""Answers questions about its host: `ernie-m doctor` starts it on every host. Questions and answers are lines of JSON.

    python -m ernie_m.hosts.host_agent     {"ask": "clock"}  ->  {"answer": {"time": 1767225600.0}}

`ANSWERS` is the table of questions. This file must run where packages are missing: at the top it imports the standard
library, and only those of our modules that need no more. A question imports what it needs inside; if that fails, the error
is its answer.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import read_json, sha256_of, sha256_of_all, written_atomically
from ernie_m.base.locks import lock
from ernie_m.base.network import own_name
from ernie_m.hosts.link import Listener, connect, stream

PACKAGES = ("torch", "deepspeed", "transformers", "sentencepiece", "pyarrow", "numpy")
FILE_PATIENCE = 5.0
"""Seconds until another host's file must be seen: network file systems remember for a while that it was not there."""

GPU_FIELDS = ("name", "memory.total", "memory.used", "driver_version", "compute_cap")
Answer = dict[str, Any]


def facts(data: str | None = None) -> Answer:
    """All that needs no other host; `data` is the data folder."""
    return {
        "name": platform.node(),
        "interpreter": sys.executable,
        "addresses": _addresses(),
        "own_name": own_name(),
        "software": {"Python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        "torch": _torch(),
        "source": source_hash(Path(__file__).parents[1]),
        "gpus": gpus(),
        "data": _data(Path(data)) if data else None,
        "cores": len(os.sched_getaffinity(0)),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "infiniband": sorted(path.name for path in Path("/sys/class/infiniband").glob("*")),
        "shm_bytes": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
    }


def clock() -> Answer:
    """Seconds since the epoch, now."""
    return {"time": time.time()}


def shard_sizes(data: str, tell: Callable[[int, int], None] = lambda done, total: None) -> Answer:
    """Whether every shard of the folder is there with its size, and what the folder holds; `tell(shards done, of all)`."""
    from ernie_m.corpus.folder import CorpusFolder

    folder = CorpusFolder(data)
    folder.check_sizes(_Teller(folder.num_shards, tell))
    streams = [*folder.monolingual(), *folder.parallel()]
    return {
        "languages": len(folder.manifest.languages),
        "streams": len(streams),
        "tokens": sum(stream.num_tokens for stream in streams),
        "vocab_size": folder.manifest.vocab_size,
    }


def share(folder: str, name: str, token: str) -> Answer:
    """Read the file `folder`/here and write this host's own, as checkpoints are written (fsync, rename); free bytes."""
    path = Path(folder)
    if not appears(path / "here", token):
        there = "is another folder there: what is written here is not seen" if path.parent.is_dir() else "is not there"
        raise InputError(f"{path.parent} {there}")
    with written_atomically(path / name) as aside:
        aside.write_text(f"{token} {name}", encoding="utf-8")
    return {"free_bytes": shutil.disk_usage(path).free, "lock": problem_of_lock(path / "lock")}


def problem_of_lock(path: Path) -> str | None:
    """The asking host holds a lock on this file: None if this host sees the lock, else what is wrong."""
    # To be written: NFS locks with a lock of bytes, which an exclusive one may not have on a file opened to be read.
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        try:
            lock(file.fileno(), path.parent.parent)
        except BlockingIOError:
            return None
        except InputError as error:
            return str(error)
        return (
            "a lock that another host holds is not seen here; mount Lustre with -o flock, not localflock, NFS without nolock"
        )
    return None


def appears(path: Path, expected: str) -> bool:
    """Whether the file is there with this content, now or within FILE_PATIENCE seconds."""
    end = time.monotonic() + FILE_PATIENCE
    while True:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == expected:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def listen(port: int, secret: str, names: Sequence[str] = (), num_peers: int = 1) -> Answer:
    """Answer other hosts' `connect` and `stream` from now on; on a port of the system's choice if `port` is taken.

    `names`: where they will try it.
    """
    listener = Listener(port, secret, names, num_peers)
    return {"port": listener.port, "is_taken": listener.port != port != 0}


def source_hash(package: Path) -> str:
    """SHA-256 over names and contents of a package's Python files."""
    return sha256_of_all(sorted(package.rglob("*.py")), package)


def gpus() -> list[Answer]:
    """The NVIDIA GPUs with MiB of memory, all and in use; none where there is no driver. An odd one says `error`."""
    try:
        for fields in (GPU_FIELDS, GPU_FIELDS[:-1]):  # drivers before 510 do not tell the compute capability
            command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if "not a valid field" not in found.stdout + found.stderr:
                break
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        return [{"error": "nvidia-smi does not answer within a minute"}]
    if found.returncode:
        return [{"error": f"nvidia-smi says: {' '.join((found.stdout + found.stderr).split())[:200]}"}]
    return read_gpus(found.stdout)


def read_gpus(text: str) -> list[Answer]:
    """nvidia-smi's lines, e.g. 'NVIDIA H200, 143771, 0, 570.86.15, 9.0'; a number it does not know ('[N/A]') is 0."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    keys = ("name", "total_mib", "used_mib", "driver", "capability")
    return [
        {
            key: (int(cell) if cell.isdigit() else 0) if key.endswith("mib") else cell
            for key, cell in zip(keys, row, strict=False)
        }
        for row in rows
    ]


class _Teller(Progress):
    """Progress for whoever asked, at most twice a second."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        super().__init__("", total, "shards", every=0.5)
        self.tell = tell

    def _print(self, note: str, now: float, end: str = "") -> None:
        self.tell(self.done, self.total or 0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Answer:
    """What only an import of torch can tell. No GPU is used: a CUDA context of ours would count as memory in use."""
    try:
        import torch

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        flags = torch._C._cuda_getArchFlags() if torch.version.cuda else None  # told even where no driver fits
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if devices else None
        cuda = torch.version.cuda
    except Exception as error:  # a broken installation may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "cuda": cuda,
        "nccl": nccl,
        "devices": devices,
        "built_for": (flags or "").split(),
        "said": " ".join(str(warning.message) for warning in said),
    }


def _data(folder: Path) -> Answer:
    """Hashes of manifest and tokenizer, and the size of the shard table (its hash is in the manifest)."""
    try:
        manifest = folder / "manifest.json"
        content = read_json(manifest)
        table = folder / content["shard_table"]["file"]
        if table.stat().st_size != content["shard_table"]["bytes"]:
            return {"error": f"{table}: {table.stat().st_size} bytes, the manifest says {content['shard_table']['bytes']}"}
        tokenizer = sha256_of(folder / content["tokenizer_file"])
        if tokenizer != content["tokenizer_sha256"]:
            return {"error": f"{folder / content['tokenizer_file']}: not the tokenizer of the manifest"}
        return {"manifest": sha256_of(manifest), "tokenizer": tokenizer}
    except OSError as error:
        return {"error": f"{error.filename}: {error.strerror}"}
    except InputError as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return {"error": f"{folder / 'manifest.json'}: not a manifest ({type(error).__name__}: {error})"}


def _addresses() -> list[str]:
    """As `hostname -I` lists them: DeepSpeed takes the first one of the first host for all to meet at."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["hostname", "-I"], capture_output=True, text=True, timeout=10, check=True).stdout.split()
    return []


ANSWERS: dict[str, Callable[..., Answer]] = {
    "facts": facts,
    "clock": clock,
    "shard_sizes": shard_sizes,
    "share": share,
    "listen": listen,
    "connect": connect,
    "stream": stream,
}


def serve(questions: TextIO, answers: TextIO) -> None:
    """Answer questions until they end; an error is an answer, {"error": one line}."""

    def say(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    say(answer={"ready": True})
    for line in questions:
        question = json.loads(line)
        name = question.pop("ask")
        if name == "shard_sizes":
            question["tell"] = lambda done, total: say(progress=[done, total])
        try:
            say(answer=ANSWERS[name](**question))
        except (InputError, OSError) as error:
            say(answer={"error": " ".join(str(error).split()) or type(error).__name__})
        except Exception as error:  # every fault of the host is an answer
            say(answer={"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    real_stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    serve(sys.stdin, real_stdout)
