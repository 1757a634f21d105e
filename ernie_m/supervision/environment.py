"""Which environment variables ranks on other hosts get, and how values survive deepspeed, pdsh and the shells between.

deepspeed with pdsh exports variables that begin with MLFLOW, PYTHON, MV2 or UCX (on CUDA also NCCL, LD_LIBRARY, PATH),
and the lines of the file that DS_ENV_FILE names (`.deepspeed_env` otherwise). We write such a file: the variables of
EXPORTED, those asked for by name, and the lines of the user's own file, which win.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from ernie_m.base.console import InputError

EXPORTED = (
    *("OMP_*", "MKL_*", "KMP_*", "NCCL_*", "GLOO_*", "TORCH*", "PYTORCH_*", "CUDA_*", "CUBLAS_*", "DS_ACCELERATOR"),
    *("HF_*", "TRANSFORMERS_*", "TOKENIZERS_*", "WANDB_*", "ERNIE_M_*"),
)
"""Variables that ranks on other hosts get as they are here; * stands for any ending."""
NEVER = ("ERNIE_M_HOST", "CUDA_VISIBLE_DEVICES")  # each host's own
_SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD)$")
KEEP_ALIVE = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
"""For pdsh's ssh: one to a host that vanished ends within a minute, instead of never."""


def ssh_arguments(environment: Mapping[str, str]) -> str:
    """PDSH_SSH_ARGS_APPEND: the user's, or keep-alives."""
    return environment.get("PDSH_SSH_ARGS_APPEND", KEEP_ALIVE)


def exported(environment: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """The variables for ranks on other hosts: those of EXPORTED without secrets, and `extra` names or NAME* as asked.

    Everybody could see secrets (WANDB_API_KEY, HF_TOKEN, ...) on command lines and in logs; they are exported only when
    asked for by their full name. Raises InputError for an extra name that is not set, or a value of several lines.
    """
    asked = tuple(extra)
    chosen = {}
    for name, value in environment.items():
        matches = any(_fits(name, pattern) for pattern in (*EXPORTED, *asked)) and name not in NEVER
        if name in asked or (matches and not _SECRET.search(name)):
            chosen[name] = value
    missing = [name for name in asked if not name.endswith("*") and name not in chosen]
    if missing:
        raise InputError(f"--export {missing[0]}: no such variable is set here; set it or take it off the list")
    broken = [name for name, value in chosen.items() if "\n" in value]
    if broken:
        raise InputError(f"{broken[0]}: a value of several lines cannot be exported to other hosts; unset it here")
    return chosen


def write_environment_file(path: Path, extra: Iterable[str], through_pdsh: bool) -> Path:
    """The file for DS_ENV_FILE, readable by us alone; returns `path`. Raises InputError for what cannot be exported."""
    lines = [f"{name}={for_pdsh(v) if through_pdsh else v}" for name, v in exported(os.environ, extra).items()]
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    for own in (Path.home() / name, Path.cwd() / name):
        if own.is_file():
            lines += _lines_of(own)
    path.touch(mode=0o600)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def withheld(environment: Mapping[str, str], extra: Iterable[str] = ()) -> list[str]:
    """Names of the secrets that are set here and not exported."""
    secrets = [name for name in environment if _SECRET.search(name) and any(_fits(name, pattern) for pattern in EXPORTED)]
    given = exported(environment, extra)
    return [name for name in secrets if name not in given]


def for_pdsh(value: str) -> str:
    """A value quoted to arrive unchanged: deepspeed adds double quotes, pdsh reads %, the remote shell the rest."""
    return re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")


def pdsh_argument(word: str) -> str:
    """A word of the training command quoted so that it arrives unchanged: deepspeed quotes only words with a blank."""
    if " " in word:
        return re.sub(r"([\\$`])", r"\\\1", word).replace("%", "%%")
    return shlex.quote(word).replace("%", "%%")


def _lines_of(path: Path) -> list[str]:
    """The lines of a user's .deepspeed_env; blank ones, on which deepspeed raises, are left out."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    for number, line in enumerate(lines, start=1):
        if line and "=" not in line:
            raise InputError(f"{path}, line {number}: {line!r}; expected NAME=value")
    return [line for line in lines if line]


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
