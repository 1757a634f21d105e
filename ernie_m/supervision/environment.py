"""Which environment variables ranks on other hosts get, and how values survive deepspeed, pdsh and the shells between.

deepspeed with pdsh exports variables that begin with MLFLOW, PYTHON, MV2 or UCX (on CUDA also NCCL, LD_LIBRARY, PATH),
and the lines of the file that DS_ENV_FILE names (`.deepspeed_env` otherwise). We write such a file: the variables of
EXPORTED, those asked for by name, and the lines of the user's own file, which win.

All these stand on command lines, which every user of every host can read, and in deepspeed's log. So secrets are in none of
them: those that are asked for go another way (ernie_m.supervision.handed).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.command_line import words_in
from ernie_m.base.console import InputError
from ernie_m.base.secret_names import is_secret

EXPORTED = (
    *("OMP_*", "MKL_*", "KMP_*", "NCCL_*", "GLOO_*", "TORCH*", "PYTORCH_*", "CUDA_*", "CUBLAS_*", "DS_ACCELERATOR"),
    *("HF_*", "TRANSFORMERS_*", "TOKENIZERS_*", "WANDB_*", "ERNIE_M_*"),
)
"""Variables that ranks on other hosts get as they are here; * stands for any ending."""
NEVER = ("ERNIE_M_HOST", "CUDA_VISIBLE_DEVICES")  # each host's own
DEEPSPEED_EXPORTS = ("MLFLOW", "PYTHON", "MV2", "UCX")
"""Prefixes of variables that deepspeed's launch gives to all hosts; with CUDA on the starting machine also NCCL."""
OLD_DEEPSPEED_EXPORTS = ("AML_", "AZUREML_", "DLTS_", "FC_TASK", "LOCAL_HOST", "MASTER_HOST", "NEBULA_")
"""And those that 0.19.0 gives besides, for a service of Azure's, whose token and key are among them."""
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
PDSH_SSH = "PDSH_SSH_ARGS_APPEND"
KEEP_ALIVE = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
"""For pdsh's ssh: one to a host that vanished ends within a minute, instead of never."""


def ssh_arguments(environment: Mapping[str, str]) -> str:
    """PDSH_SSH_ARGS_APPEND: the user's, or keep-alives."""
    return environment.get(PDSH_SSH, KEEP_ALIVE)


def ssh_words(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The same, word by word."""
    return words_in(ssh_arguments(environment), PDSH_SSH)


def exported(environment: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """The variables for ranks on other hosts: those of EXPORTED without secrets, and `extra` names or NAME* as asked.

    Secrets are among them only when asked for by their full name. Raises InputError for an extra name that is not set, or a
    value of several lines.
    """
    asked = tuple(extra)
    chosen = {}
    for name, value in environment.items():
        matches = any(_fits(name, pattern) for pattern in (*EXPORTED, *asked)) and name not in NEVER
        if name in asked or (matches and not is_secret(name, value)):
            chosen[name] = value
    missing = [name for name in asked if not name.endswith("*") and name not in chosen]
    if missing:
        raise InputError(f"--export {missing[0]}: no such variable is set here; set it or take it off the list")
    broken = [name for name, value in chosen.items() if "\n" in value]
    if broken:
        raise InputError(f"{broken[0]}: a value of several lines cannot be exported to other hosts; unset it here")
    return chosen


@dataclass(frozen=True)
class ForHosts:
    """What ranks on other hosts get: lines for DS_ENV_FILE, which reach command lines, and secrets, which must not."""

    lines: tuple[str, ...]
    secrets: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, environment: Mapping[str, str], extra: Iterable[str], through_pdsh: bool) -> ForHosts:
        """Those exported, then the lines of the user's own files; raises InputError for what cannot be exported."""
        ours = list(exported(environment, extra).items())
        theirs = [pair for path in environment_files(environment) for pair in _read(path)]
        secret = {name for name, value in (*ours, *theirs) if is_secret(name, value)}
        odd = [name for name in secret if not _NAME.fullmatch(name)]
        if odd:
            raise InputError(f"{odd[0]!r}: not the name of a variable that a shell can set; take it off the list")
        lines = [f"{name}={for_pdsh(value) if through_pdsh else value}" for name, value in ours if name not in secret]
        lines += [f"{name}={value}" for name, value in theirs if name not in secret]
        return cls(tuple(lines), tuple((name, value) for name, value in (*ours, *theirs) if name in secret))

    def write(self, path: Path) -> Path:
        """Write the lines, readable by us alone; returns `path`."""
        path.touch(mode=0o600)
        path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        return path


def environment_files(environment: Mapping[str, str]) -> list[Path]:
    """The user's files whose lines deepspeed gives to the ranks: in the home folder and in this one."""
    name = environment.get("DS_ENV_FILE", ".deepspeed_env")
    return [path for path in dict.fromkeys((Path.home() / name, Path.cwd() / name)) if path.is_file()]


def of_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for deepspeed itself: without the secrets that it would put on command lines by their names."""
    prefixes = (*DEEPSPEED_EXPORTS, *OLD_DEEPSPEED_EXPORTS, "NCCL")
    return {k: v for k, v in environment.items() if not (k.startswith(prefixes) and is_secret(k, v))}


def withheld(environment: Mapping[str, str], extra: Iterable[str] = ()) -> list[str]:
    """Names of the secrets that are set here, would be exported if they were none, and are not asked for."""
    others = (*EXPORTED, *(f"{prefix}*" for prefix in DEEPSPEED_EXPORTS))
    secrets = [k for k, v in environment.items() if is_secret(k, v) and any(_fits(k, pattern) for pattern in others)]
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


def _read(path: Path) -> list[tuple[str, str]]:
    """Names and values of a user's .deepspeed_env; blank lines, on which deepspeed raises, are left out."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    for number, line in enumerate(lines, start=1):
        if line and "=" not in line:
            name = "the line" if is_secret(line, line) else repr(line)
            raise InputError(f"{path}, line {number}: {name}; expected NAME=value")
    split = [line.partition("=") for line in lines if line]
    return [(name.strip(), value) for name, _, value in split]


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
