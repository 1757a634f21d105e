"""The job: one `deepspeed` in its own process group, started on the given hosts, ended with all its ranks."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.command_line import with_home_expanded
from ernie_m.base.console import Choice, InputError
from ernie_m.base.hostfile import check_host_name, free_port, is_local, likely_port, write_hostfile
from ernie_m.runs.job_defaults import TRAINING, job_names
from ernie_m.supervision.environment import ForHosts, of_launcher, pdsh_argument, ssh_arguments, ssh_words
from ernie_m.supervision.handed import HandedSecrets
from ernie_m.supervision.orphans import end_orphans, members_of_group
from ernie_m.supervision.remote import SSH_FAILED, on_each

OWN_OPTIONS = (
    *("--hostfile", "-H", "--num_gpus", "--num_accelerators", "--num_nodes", "--master_port", "--master_addr"),
    *("--include", "-i", "--exclude", "-e", "--no_ssh", "--node_rank", "--module"),
)
PRETRAIN = "pretrain"
"""The command that stands for the module TRAINING behind `--`."""
NO_HOSTFILE = os.devnull  # else deepspeed would take /job/hostfile where there is one
NO_PDSH, INSTALL_PDSH = "pdsh is not installed on this machine", "`apt install pdsh`; deepspeed starts with it"
TERMINATION_SECONDS = 30.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class JobCommand:
    """What stands behind `--`: the program that all ranks run, and its arguments, --run among them."""

    words: tuple[str, ...]
    """First the program: the path of a script, or TRAINING, a module."""
    choices: tuple[Choice, ...] = ()
    """Defaults that were taken, to be printed."""

    @classmethod
    def of(cls, words: Sequence[str]) -> JobCommand:
        """The complete command behind `--`: training if it names none, and the default --run if it gives none.

        The run's ~ is replaced: this process looks into that folder, too.
        """
        first, rest = (words[0] if words else PRETRAIN), list(words[1:])
        said = [] if words else [Choice("command", PRETRAIN, "there is none behind --")]
        program = TRAINING if first == PRETRAIN else first
        if program != TRAINING and Path(program).name != f"{PRETRAIN}.py":
            return cls((program, *rest))
        job = job_names(*(value_of(name, rest) or None for name in ("--recipe", "--data", "--run")))
        if not value_of("--run", rest):
            rest = ["--run", job.run, *rest]
        elif (run := with_home_expanded(job.run, "--run")) != job.run:
            rest = _with_value("--run", run, rest)
        return cls((program, *rest), (*said, *job.choices))

    def __post_init__(self) -> None:
        if not self.words:
            raise InputError("no command; expected `-- pretrain --recipe R --data D --run RUN` at the end")
        if not (self.is_module or Path(self.program).is_file()):
            raise InputError(
                f"{self.program}: no such file; "
                "expected `pretrain` or a script to train with behind `--`, without `deepspeed`"
            )
        if not value_of("--run", self.words):
            raise InputError("the command behind `--` has no --run RUN: the supervisor watches the job through that folder")
        if any(word.lstrip("-").replace("-", "_").startswith("from_scratch") or word == "-f" for word in self.words[1:]):
            raise InputError(
                "--from_scratch would delete the run at every restart; delete its folder yourself, or take another --run"
            )

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def is_module(self) -> bool:
        return self.program == TRAINING

    @property
    def run(self) -> Path:
        return Path(value_of("--run", self.words))


@dataclass(frozen=True)
class DeepspeedLauncher:
    """How to start the job. All starts are the same except for the hosts.

    deepspeed_options: further options of `deepspeed`; num_ranks: local ranks where there is no hostfile (None: one per
    device); master_addr: where the ranks meet, instead of the first host's name, as long as `first_host` takes part;
    exports: names or prefixes (ending in *) of further environment variables for ranks on other hosts.
    """

    command: JobCommand
    deepspeed_options: tuple[str, ...] = ()
    num_ranks: int | None = None
    master_addr: str = ""
    first_host: str = ""
    exports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        taken = [word for word in self.deepspeed_options if word.partition("=")[0] in OWN_OPTIONS]
        if taken:
            raise InputError(f"--deepspeed_options: {taken[0]} is set by the supervisor itself; see its --help")
        if self.master_addr:
            check_host_name(self.master_addr, "--master_addr")

    def check_starter(self) -> None:
        """Raise InputError where the program by which deepspeed reaches other hosts is missing: it raises at every start."""
        if self._uses_pdsh and not shutil.which("pdsh"):
            raise InputError(f"{NO_PDSH}; {INSTALL_PDSH}")

    def start(self, hosts: Mapping[str, int], folder: Path) -> Job:
        """Start on `hosts` (host -> slots; empty: on this machine without a hostfile); `folder` is for files of ours."""
        where = self._where(hosts, folder)
        options = [*self.deepspeed_options, *where, *(["--module"] if self.command.is_module else [])]
        environment, words, handed = dict(os.environ), list(self.command.words), None
        if needs_ssh(hosts):
            given = ForHosts.of(os.environ, self.exports, self._uses_pdsh)
            environment = of_launcher(os.environ)
            environment["DS_ENV_FILE"] = str(given.write(folder / "environment"))
            environment["PDSH_SSH_ARGS_APPEND"] = ssh_arguments(os.environ)
            if given.secrets:
                handed = self._hand(hosts, given)
                options += ["--venv_script", handed.script]  # the last one counts
        if needs_ssh(hosts) and self._uses_pdsh:
            words[1:] = [pdsh_argument(word) for word in words[1:]]
        command = [self._executable(), *options, *words]
        return Job(subprocess.Popen(command, env=environment, start_new_session=True), self.command, handed)

    def _hand(self, hosts: Mapping[str, int], given: ForHosts) -> HandedSecrets:
        """Give the secrets to all hosts; raises InputError for a launcher that would put them on command lines."""
        if not self._uses_pdsh:
            launcher, name = value_of("--launcher", self.deepspeed_options), given.secrets[0][0]
            raise InputError(
                f"{name}: a secret, which --launcher {launcher} would put on command lines; log in on each host, "
                "and take it off --export and .deepspeed_env"
            )
        first = value_of("--venv_script", self.deepspeed_options)
        return HandedSecrets.hand(tuple(hosts), self.ssh_options, given.secrets, first)

    def _where(self, hosts: Mapping[str, int], folder: Path) -> list[str]:
        if not hosts:
            ranks = [] if self.num_ranks is None else ["--num_gpus", str(self.num_ranks)]
            return ["--hostfile", NO_HOSTFILE, *ranks, "--master_port", str(free_port())]
        write_hostfile(folder / "hostfile", hosts)
        first = next(iter(hosts))
        address = self.master_addr if self.master_addr and first == self.first_host else first
        # whether the port is free on that host shows only there: the next start takes another one
        port = free_port() if is_local(first) else likely_port()
        if not needs_ssh(hosts):
            address = "127.0.0.1"
        meeting = ["--master_addr", address, "--master_port", str(port)]
        # without --force_multi deepspeed starts the ranks of a single remaining host on this machine, whatever its name
        ssh = ["--no_ssh_check", *(["--force_multi"] if needs_ssh(hosts) else [])]
        return ["--hostfile", str(folder / "hostfile"), *ssh, *meeting]

    @property
    def ssh_options(self) -> list[str]:
        """Options with which deepspeed's own ssh reaches the hosts."""
        port = value_of("--ssh_port", self.deepspeed_options)
        return [*ssh_words(os.environ), *(["-p", port] if port else [])]

    @property
    def _uses_pdsh(self) -> bool:
        return value_of("--launcher", self.deepspeed_options).lower() in ("", "pdsh")

    @staticmethod
    def _executable() -> str:
        path = Path(sys.executable).parent / "deepspeed"
        if not path.is_file():
            raise InputError(f"{path}: no such file; start the supervisor with the python that deepspeed is installed for")
        return str(path)


@dataclass(frozen=True)
class Job:
    """A started job."""

    launcher: subprocess.Popen[bytes]
    command: JobCommand
    handed: HandedSecrets | None = None

    def exit_code(self) -> int | None:
        """The launcher's exit code, None while it runs. It can be 0 after a kill -9, so the run folder decides, not this."""
        return self.launcher.poll()

    def end(self, seconds: float = TERMINATION_SECONDS) -> int:
        """End whatever is left of it on this machine: SIGTERM, after `seconds` SIGKILL; returns the launcher's exit code."""
        group = self.launcher.pid
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while members_of_group(group) and time.monotonic() < deadline:
            self.launcher.poll()
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        end_orphans(self.command.program, self.command.run)
        if self.handed is not None:
            self.handed.take_back()
        return self.launcher.wait()

    def _signal(self, number: signal.Signals) -> None:
        if members_of_group(self.launcher.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.launcher.pid, number)


def needs_ssh(hosts: Mapping[str, int]) -> bool:
    """Whether ssh is needed: always, unless the only host is this machine."""
    return len(hosts) > 1 or any(not is_local(host) for host in hosts)


def reachable(hosts: Sequence[str], ssh_options: Sequence[str]) -> dict[str, bool]:
    """Whether ssh reaches each host; all are asked at the same time, which takes about ten seconds at most."""
    return {host: code != SSH_FAILED for host, code in on_each(dict.fromkeys(hosts, "true"), ssh_options).items()}


def end_remote_orphans(hosts: Sequence[str], ssh_options: Sequence[str], command: JobCommand) -> None:
    """End what is left of the job on other hosts. They must have the same paths."""
    words = [sys.executable, "-m", "ernie_m.supervision.orphans", command.program, str(command.run)]
    on_each(dict.fromkeys(hosts, f"cd {shlex.quote(os.getcwd())} && {shlex.join(words)}"), ssh_options)


def value_of(option: str, words: Sequence[str]) -> str:
    """The value of `option`: the next word, or what follows its =. The last one counts; "" if there is none."""
    given = ""
    for number, word in enumerate(words):
        name, has_value, value = word.partition("=")
        if name == option:
            given = value if has_value else "".join(words[number + 1 : number + 2])
    return given


def _with_value(option: str, value: str, words: Sequence[str]) -> list[str]:
    """The words with another value for that option, in whichever form it is given."""
    changed = [f"{option}={value}" if word.startswith(f"{option}=") else word for word in words]
    for number, word in enumerate(changed[:-1]):
        if word == option:
            changed[number + 1] = value
    return changed
