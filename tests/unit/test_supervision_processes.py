"""What the ranks of a supervised job are started with, and that its processes are found and ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.secret_names import is_secret
from ernie_m.runs.job_defaults import TRAINING
from ernie_m.supervision import handed
from ernie_m.supervision.deepspeed_job import DeepspeedLauncher, Job, JobCommand, needs_ssh
from ernie_m.supervision.environment import KEEP_ALIVE, ForHosts, exported, of_launcher, ssh_arguments, ssh_words, withheld
from ernie_m.supervision.orphans import end_orphans, members_of_group, processes_of
from ernie_m.supervision.policy import ActiveHosts, RestartPolicy
from ernie_m.supervision.supervisor import GracePeriods, Supervisor

# --- what ranks on other hosts get


def test_what_training_needs_is_exported_but_no_secrets_and_nothing_of_this_host_alone() -> None:
    here = {
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "1",
        "TORCH_LOGS": "x",
        "ERNIE_M_PACE": "1",
        "TOKENIZERS_PARALLELISM": "0",
    }
    others = {"ERNIE_M_HOST": "me", "CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "s", "WANDB_API_KEY": "s", "LS_COLORS": "x"}
    assert exported({**here, **others}) == here
    assert withheld({**here, **others}) == ["HF_TOKEN", "WANDB_API_KEY"]
    assert exported({**here, **others}, ["WANDB_API_KEY", "LS_*"]) == {**here, "WANDB_API_KEY": "s", "LS_COLORS": "x"}
    with pytest.raises(InputError, match="NOWHERE: no such variable"):
        exported(here, ["NOWHERE"])
    with pytest.raises(InputError, match="several lines"):
        exported({"NCCL_X": "1\n2"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "x")
            for name in ("HF_TOKEN", "HF_API_TOKENS", "WANDB_PASSWD", "wandb_api_key", "GIT_ASKPASS", "MyCredentials")
        ),
        *((name, "x") for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS", "TOKENIZERS_KEY", "PASSPHRASE")),
        *((name, "x") for name in ("WANDB_JWT", "MLFLOW_BEARER", "HF_COOKIES", "HF_DB_PWD")),
        *(("HF_ENDPOINT", f"https://a.b/c?{query}") for query in ("x=1&api_key=word", "sig=ab%2F", "X-Amz-Signature=0")),
        ("MLFLOW_STORE", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=ab==;"),
        *(("HF_ENDPOINT", f"https://{user}@a.b/c") for user in ("me:word", ":word", "ghp_1234", "me:w/o?rd")),
    ],
)
def test_secrets_are_known_by_their_names_and_urls(name: str, value: str) -> None:
    assert is_secret(name, value)
    assert exported({name: value}, ["*"]) == {}
    assert exported({name: value}, [name]) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "0"),
        ("NCCL_IB_PKEY", "3"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("HF_ENDPOINT", "https://a.b:80/c?d=e"),
        ("OMP_PLACES", "cores"),
        ("NCCL_TOPO_FILE", "/a/keys=b;c"),
        ("ERNIE_M_OLDPWD", "/a"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
    ],
)
def test_what_jobs_need_is_no_secret(name: str, value: str) -> None:
    assert not is_secret(name, value)
    assert exported({name: value}) == {name: value}


def test_what_deepspeed_would_put_on_command_lines_is_kept_from_it() -> None:
    here = {
        "MLFLOW_TRACKING_TOKEN": "s",
        "AZUREML_RUN_TOKEN": "s",
        "NCCL_URL": "tcp://a:b@c",
        "PYTHONPATH": "x",
        "HF_TOKEN": "stays here",
        "PATH": "y",
    }
    assert of_launcher(here) == {"PYTHONPATH": "x", "HF_TOKEN": "stays here", "PATH": "y"}
    assert withheld(here) == ["MLFLOW_TRACKING_TOKEN", "NCCL_URL", "HF_TOKEN"]


def test_the_users_own_deepspeed_env_is_kept_and_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    (tmp_path / ".deepspeed_env").write_text("MINE=$HOME\n\nOMP_NUM_THREADS=4\nWANDB_API_KEY=a b\n")
    given = ForHosts.of(os.environ, (), through_pdsh=True)
    written = given.write(tmp_path / "file")
    lines = written.read_text().splitlines()
    assert "" not in lines, "deepspeed raises on it"
    assert [line for line in lines if line.startswith(("MINE", "OMP_NUM"))][-2:] == ["MINE=$HOME", "OMP_NUM_THREADS=4"]
    assert given.secrets == (("WANDB_API_KEY", "a b"),)
    assert written.stat().st_mode & 0o077 == 0
    for content, said in (("A=1\nexport\n", "line 2: 'export'; expected"), ("MY_TOKEN 123\n", "line 1: the line; expected")):
        (tmp_path / ".deepspeed_env").write_text(content)
        with pytest.raises(InputError, match=f"{said} NAME=value") as caught:
            ForHosts.of(os.environ, (), through_pdsh=True)
        assert "123" not in str(caught.value)


# --- secrets that ranks on other hosts need


SSH = """#!/bin/bash
printf '%s\\n' "$@" >> "{log}"
while [ "$1" != -- ]; do shift; done
shift; host=$1; shift
[ "$host" = down ] && exit 255
exec env -i PATH="$PATH" {shell} -c "$*"
"""
DEEPSPEED = """#!/bin/bash
printf '%s\\n' "$@" >> "{log}"
cat "$DS_ENV_FILE" >> "{log}"
"""
SECRET = 'wo\'rd $HOME `id` "x" %h'


class Started:
    """A launcher whose ssh and deepspeed write down what stands on their command lines."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.folder, self._patch = tmp_path / "log", tmp_path, monkeypatch
        self.shell("bash")
        (tmp_path / "deepspeed").write_text(DEEPSPEED.format(log=self.log))
        (tmp_path / "deepspeed").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("DS_ENV_FILE", raising=False)
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
        monkeypatch.setattr(DeepspeedLauncher, "_executable", staticmethod(lambda: str(tmp_path / "deepspeed")))

    def shell(self, shell: str) -> None:
        (self.folder / "ssh").write_text(SSH.format(log=self.log, shell=shell))
        (self.folder / "ssh").chmod(0o755)

    def start(self, *options: str, hosts: tuple[str, ...] = ("east", "west")) -> Job:
        launcher = DeepspeedLauncher(JobCommand((__file__, "--run", "none")), options, exports=("WANDB_API_KEY",))
        job = launcher.start(dict.fromkeys(hosts, 1), self.folder)
        job.launcher.wait()
        return job

    @property
    def script(self) -> str:
        lines = self.log.read_text().splitlines()
        return lines[len(lines) - 1 - lines[::-1].index("--venv_script") + 1]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(tmp_path, monkeypatch)


def test_a_secret_reaches_each_host_s_ranks_and_stands_on_no_command_line(started: Started, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("export THEIRS=1 WANDB_API_KEY=another\n")
    job = started.start("--venv_script", str(tmp_path / "theirs"))
    for host in ("east", "west"):
        path = Path(started.script.replace("%h", host))  # as pdsh does
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        shown = 'printf %s "$WANDB_API_KEY$THEIRS"'
        words = ["bash", "-c", f"source {path}; {shown}"]
        assert subprocess.run(words, capture_output=True, text=True, check=True, env={}).stdout == SECRET + "1"
        assert not path.parent.exists(), "read once"
    said = started.log.read_text()
    assert "--venv_script" in said
    assert "wo'rd" not in said
    assert "WANDB_API_KEY" not in said
    job.end(0)


def test_secrets_that_no_shell_has_read_are_taken_back(started: Started) -> None:
    job = started.start(hosts=("east", "down"))
    path = Path(started.script.replace("%h", "east"))
    assert path.is_file()
    assert not Path(started.script.replace("%h", "down")).exists(), "a host that is down fails at the start"
    job.end(0)
    assert not path.parent.exists()


def test_what_lies_where_secrets_should_go_is_not_followed(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed.secrets, "token_hex", lambda _: started.folder.name)
    where = Path(f"/tmp/ernie-m-{started.folder.name}-west")
    (started.folder / "target").mkdir()
    where.symlink_to(started.folder / "target")
    try:
        with pytest.raises(InputError, match=r"host west: does not take WANDB_API_KEY \(no room in /tmp"):
            started.start()
        assert list((started.folder / "target").iterdir()) == []
        assert not Path(f"/tmp/ernie-m-{started.folder.name}-east").exists()
    finally:
        where.unlink(missing_ok=True)


def test_a_way_that_would_show_secrets_is_refused(started: Started) -> None:
    with pytest.raises(InputError, match="WANDB_API_KEY: a secret, which --launcher openmpi would put on command lines"):
        started.start("--launcher", "openmpi")
    started.shell("dash")
    with pytest.raises(InputError, match="its shell has no `source`"):
        started.start()
    assert "--venv_script" not in started.log.read_text()


def test_ssh_keeps_alive_unless_the_user_says_otherwise() -> None:
    assert "ServerAliveInterval=15" in ssh_arguments({}) == KEEP_ALIVE
    assert ssh_arguments({"PDSH_SSH_ARGS_APPEND": "-i key"}) == "-i key"
    assert ssh_words({"PDSH_SSH_ARGS_APPEND": "-i key"}) == ("-i", "key")
    with pytest.raises(InputError, match="PDSH_SSH_ARGS_APPEND -i 'key: No closing quotation"):
        ssh_words({"PDSH_SSH_ARGS_APPEND": "-i 'key"})


# --- the command, and its processes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "no command"),
        (["nowhere.py", "--run", "r"], "nowhere.py: no such file"),
        ([__file__, "--data", "d"], "no --run RUN"),
        ([__file__, "--run", "r", "--from_scratch"], "at every restart"),
        ([__file__, "--run", "r", "--from-scratch=True"], "at every restart"),
    ],
)
def test_a_command_that_cannot_be_supervised_is_one_clear_line(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        JobCommand(tuple(words))


def test_options_that_are_the_supervisors_own_are_refused() -> None:
    command = JobCommand((__file__, "--run=elsewhere"))
    assert command.run == Path("elsewhere")
    with pytest.raises(InputError, match="--include=a is set by the supervisor itself"):
        DeepspeedLauncher(command, ("--ssh_port", "22", "--include=a"))
    assert DeepspeedLauncher(command, ("--ssh_port=2222",)).ssh_options[-2:] == ["-p", "2222"]


def test_ssh_is_needed_but_for_a_single_local_host() -> None:
    assert not needs_ssh({})
    assert not needs_ssh({"localhost": 2})
    assert needs_ssh({"localhost": 2, "b": 2})
    assert needs_ssh({"b": 2}), "deepspeed alone would start its ranks here"


def test_without_the_program_that_starts_other_hosts_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """deepspeed would end in the same traceback at each start."""
    monkeypatch.setenv("PATH", str(tmp_path))
    command, hosts = JobCommand((__file__, "--run", str(tmp_path / "run"))), ActiveHosts({"a": 1, "b": 1}, 2, 100)
    supervisor = Supervisor(DeepspeedLauncher(command), RestartPolicy(1, 1), hosts, GracePeriods())
    with pytest.raises(InputError, match=r"^pdsh is not installed on this machine; `apt install pdsh`"):
        supervisor.run()
    assert list(tmp_path.iterdir()) == []
    DeepspeedLauncher(command, ("--launcher", "openmpi")).check_starter()


SLEEPER = "import signal, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def sleeper(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that ignores SIGTERM, ready."""
    (folder / "train.py").write_text(SLEEPER)
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=folder, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_ending_a_job_ends_its_whole_group_even_what_ignores_sigterm(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SLEEPER)
    launcher = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.Popen([sys.executable, 'train.py']).wait()"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert launcher.stdout is not None
    launcher.stdout.readline()
    assert len(members_of_group(launcher.pid)) == 2
    job = Job(launcher, JobCommand((str(tmp_path / "train.py"), "--run", "none")))
    assert job.end(seconds=0.5) == -signal.SIGTERM
    deadline = time.monotonic() + 10
    while members_of_group(launcher.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_zombie_is_not_waited_for(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    assert members_of_group(process.pid) == [process.pid]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
    assert members_of_group(process.pid) == []
    process.wait()


def test_ranks_that_outlived_their_launcher_are_found_by_script_and_run_alone(tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("run", "run2", "other")}
    (tmp_path / "else").mkdir()
    started = {
        "absolute": sleeper(tmp_path, "--run", str(runs["run"])),
        "relative": sleeper(tmp_path, "--local_rank=0", "--run=run"),
        "another run": sleeper(tmp_path, "--run", str(runs["run2"])),
        "same words elsewhere": sleeper(tmp_path / "else", "--run", "run"),
        "named in passing": sleeper(tmp_path, "--data", str(runs["run"])),
        "a supervisor": sleeper(tmp_path, "supervise.py", "--", "train.py", "--run", str(runs["run"])),
        "one of ernie-m": sleeper(tmp_path, "bin/ernie-m", "supervise", "--", "train.py", "--run", str(runs["run"])),
    }
    try:
        script = tmp_path / "train.py"
        expected = {started["absolute"].pid, started["relative"].pid}
        assert set(processes_of(script, runs["run"])) == expected
        assert set(end_orphans(script, runs["run"])) == expected
        assert [started[name].wait(timeout=10) for name in ("absolute", "relative")] == [-signal.SIGKILL] * 2
        assert all(started[name].poll() is None for name in list(started)[2:])
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def test_ranks_of_a_module_are_found_by_its_name_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    run = str(tmp_path / "run")
    started = {
        "a rank": sleeper(tmp_path / "else", "-m", TRAINING, "--local_rank=0", "--run", run),
        "a script": sleeper(tmp_path, "--run", run),
        "another run": sleeper(tmp_path, "-m", TRAINING, "--run", f"{run}2"),
        **{
            f"a supervisor: {words}": sleeper(tmp_path, *words.split(), "--", TRAINING, "--run", run)
            for words in ("ernie-m supervise", "-m ernie_m supervise", "-m ernie_m.commands.supervise")
        },
    }
    try:
        assert processes_of(TRAINING, Path(run)) == [started["a rank"].pid]
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def test_supervision_is_quick_to_start_as_it_needs_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import ernie_m.supervision.supervisor"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 0, result.stderr
