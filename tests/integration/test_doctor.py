"""The doctor against real ssh servers: addresses 127.0.0.2, .3, ... as hosts, one of them with another view of the files.

127.0.0.2  sound       127.0.0.4  no ssh server
127.0.0.3  as `odd` makes it: its commands run in a mount namespace of their own
127.0.0.5  an ssh server whose key nobody knows
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ernie_m.base.hostfile import free_port
from tests.integration.conftest import ROOT, environment

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
SOUND, ODD, DOWN, UNKNOWN = (f"127.0.0.{number}" for number in (2, 3, 4, 5))
SITE_PACKAGES_OF_OURS = Path(importlib.util.find_spec("torch").origin).parents[1]  # type: ignore


@dataclass
class Cluster:
    """Ssh servers of ours, and how ssh finds them."""

    folder: Path
    port: int

    @property
    def ssh_options(self) -> str:
        return f"-F {self.folder / 'ssh_config'}"

    def make_odd(self, preparation: str = "true") -> None:
        """What the commands of host ODD find prepared, e.g. something else mounted over the data."""
        command = f'{preparation} && exec sh -c "$SSH_ORIGINAL_COMMAND"'
        self.folder.joinpath("odd").write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{command}'\n")
        self.folder.joinpath("odd").chmod(0o755)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd on this machine (apt install openssh-server)")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root that may make mount namespaces")
    cluster = Cluster(tmp_path_factory.mktemp("ssh"), free_port())
    folder = cluster.folder
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = [f"[{host}]:{cluster.port} {host_key}\n" for host in (SOUND, ODD)]
    (folder / "known_hosts").write_text("".join(known))
    (folder / "ssh_config").write_text(
        f"Port {cluster.port}\nUser root\nIdentityFile {folder}/user_key\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
    )
    (folder / "sshd_config").write_text(
        f"Port {cluster.port}\n"
        + "".join(f"ListenAddress {host}\n" for host in (SOUND, ODD, UNKNOWN))
        + f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        f"PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        f"Match LocalAddress {ODD}\n  ForceCommand {folder}/odd\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("w"))
    try:
        _await_port(SOUND, cluster.port)
        yield cluster
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def cluster(servers: Cluster) -> Cluster:
    servers.make_odd()
    return servers


Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Run the doctor in this repository; `hosts` become a hostfile of one slot each."""

    def run(*arguments: str | Path, hosts: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "launcher" / "doctor.py", *arguments]
        if hosts:
            (tmp_path / "hostfile").write_text("".join(f"{host} slots=1\n" for host in hosts))
            command += ["--hostfile", tmp_path / "hostfile"]
            command += [] if "--master_port" in arguments else ["--master_port", str(free_port())]
        plain = {name: value for name, value in environment().items() if not name.startswith(("DS_", "PYTORCH_"))}
        everything = {**plain, "DS_ENV_FILE": str(tmp_path / "deepspeed_env"), **variables}
        return subprocess.run(
            list(map(str, command)), cwd=ROOT, env=everything, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def _await_port(host: str, port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("sshd did not start")


def _problems(run: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", run.stdout, re.MULTILINE)


def _row(run: subprocess.CompletedProcess[str], host: str) -> str:
    return next(line for line in run.stdout.splitlines() if line.startswith(f"{host} "))


def test_sound_hosts_are_well_and_nothing_stays_behind(cluster: Cluster, doctor: Doctor, data: Path, tmp_path: Path) -> None:
    folders = ("--data", data, "--run", tmp_path / "runs" / "first", "--json", tmp_path / "answers.json")
    run = doctor(*folders, "--bandwidth", "--ssh_options", cluster.ssh_options, hosts=(SOUND, ODD))
    slow = [problem for problem in _problems(run) if "the median link has" in problem]  # of a busy machine's loopback
    assert (run.returncode, _problems(run)) == (2 if slow else 0, slow), run.stdout + run.stderr
    assert slow or "all is well" in run.stdout
    assert not (tmp_path / "runs").exists(), "the run's folder is the run's to make"
    answers = json.loads((tmp_path / "answers.json").read_text())["hosts"]
    first, second = answers[SOUND], answers[ODD]
    assert first["facts"]["data"] == second["facts"]["data"] != {}
    assert first["shards"]["tokens"] > 1000
    assert "shards" not in second, "a million files are looked at once"
    assert (first["ring"]["to"], second["ring"]["to"]) == (ODD, SOUND)
    assert min(first["ring"]["gbit_per_second"], second["ring"]["gbit_per_second"]) > 0.01
    assert set(second["route"]["tried"].values()) == {None}
    assert abs(second["clock"]["ahead"]) < 1
    assert second["facts"]["omp_num_threads"] == "1", "as `ernie-m supervise` exports it"
    for host in (SOUND, ODD):
        assert slow or " x" not in _row(run, host)


@pytest.mark.parametrize(
    ("preparations", "expected"),
    [
        (
            [
                "mount --bind {other_data} {data}",
                "mount -t tmpfs none {package}",
                "mount --bind {empty_file} {source}",
                "mount -t tmpfs none {run}",
                "ulimit -n 200",
            ],
            [
                "sentencepiece is not installed",
                "its ernie_m is another than the others'",
                r"data: manifest \w+ is another than the others'",
                "shared folder: {run} is another folder there",
                "ulimit -n is 200, expected 1024",
            ],
        ),
        (
            ["mount -t tmpfs none {data}", "mount -t tmpfs none {torch}", "mount -t tmpfs none {run_parent}"],
            [
                "torch does not import: ",
                "data: {data}/manifest.json: No such file or directory",
                "shared folder: {run} is not there",
            ],
        ),
        (["mount -t tmpfs none {interpreter}"], [".*(No such file|not found).*the same paths on every host"]),
        (["exit 3"], ["the session ended with exit code 3"]),
    ],
    ids=["other", "missing", "no python", "no shell"],
)
def test_what_differs_on_one_host_is_named(
    preparations: list[str], expected: list[str], cluster: Cluster, doctor: Doctor, data: Path, tmp_path: Path
) -> None:
    other, run_folder = tmp_path / "other", tmp_path / "runs" / "first"
    shutil.copytree(data, other)
    with (other / "manifest.json").open("a") as manifest:
        manifest.write("\n")  # as good, but another
    run_folder.mkdir(parents=True)
    (tmp_path / "empty").touch()
    names = {
        "data": str(data),
        "other_data": str(other),
        "package": str(next(SITE_PACKAGES_OF_OURS.glob("sentencepiece-*.dist-info"))),
        "torch": str(SITE_PACKAGES_OF_OURS / "torch"),
        "empty_file": str(tmp_path / "empty"),
        "source": str(ROOT / "ernie_m" / "models" / "loss.py"),
        "run": str(run_folder),
        "run_parent": str(run_folder.parent),
        "interpreter": str(Path(sys.executable).parent),
    }
    cluster.make_odd(" && ".join(preparations).format(**names))
    run = doctor("--data", data, "--run", run_folder, "--ssh_options", cluster.ssh_options, hosts=(SOUND, ODD))
    problems = _problems(run)
    assert len(problems) == len(expected), run.stdout + run.stderr
    for problem, pattern in zip(problems, expected, strict=True):
        assert re.match(f"{ODD}: {pattern.format(**names)}", problem), problem
    assert run.returncode == 2
    assert " x" in _row(run, ODD)
    assert " x" not in _row(run, SOUND)
    assert list(run_folder.iterdir()) == []


def test_a_doctor_that_is_ended_leaves_nothing_in_the_way_of_a_run(cluster: Cluster, tmp_path: Path) -> None:
    parent = tmp_path / "runs"
    parent.mkdir()
    cluster.make_odd(f"mount -t tmpfs none {parent}")  # so that it waits there for a file
    (tmp_path / "hostfile").write_text(f"{SOUND} slots=1\n{ODD} slots=1\n")
    options = ["--hostfile", tmp_path / "hostfile", "--run", parent / "first", "--ssh_options", cluster.ssh_options]
    command = list(map(str, [sys.executable, ROOT / "launcher" / "doctor.py", *options]))
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(parent.glob("first/.doctor-*/here")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("error: interrupted\n")
    assert "Traceback" not in said
    assert list(parent.iterdir()) == []


def test_every_host_is_tried_not_the_first_alone(cluster: Cluster, doctor: Doctor, tmp_path: Path) -> None:
    run = doctor(
        "--shared", tmp_path, "--ssh_options", cluster.ssh_options, hosts=(SOUND, DOWN, UNKNOWN, "no-such-host.invalid")
    )
    problems = _problems(run)
    assert run.returncode == 2
    assert len(problems) == 3, run.stdout
    for host, said, remedy in (
        (DOWN, "Connection refused", "start one"),
        (UNKNOWN, "Host key verification failed", "ssh-keyscan"),
        ("no-such-host.invalid", "resolve hostname", "correct the hostfile"),
    ):
        assert any(p.startswith(f"{host}: ") and said in p and remedy in p for p in problems), problems
    assert " x" not in _row(run, SOUND)


def test_a_port_in_use_on_the_first_host_is_a_problem(cluster: Cluster, doctor: Doctor, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other_job:
        port = str(other_job.getsockname()[1])
        given = {"PDSH_SSH_ARGS_APPEND": cluster.ssh_options}  # as pdsh reads it
        run = doctor("--master_port", port, "--shared", tmp_path, hosts=(SOUND, ODD), **given)
    (problem,) = _problems(run)
    assert f"{SOUND}: port {port} is in use" in problem


def test_what_deepspeed_does_not_export_is_said_and_its_broken_file_named(
    cluster: Cluster, doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "deepspeed_env").write_text("HF_HOME=/cache\n\nNCCL_DEBUG\n")
    run = doctor(
        "--recipe",
        "demo",
        "--ssh_options",
        cluster.ssh_options,
        hosts=(SOUND, ODD),
        HF_HOME="/cache",
        GLOO_SOCKET_IFNAME="lo",
        WANDB_API_KEY="secret",
    )
    file = tmp_path / "deepspeed_env"
    assert [p.partition("; ")[0] for p in _problems(run)] == [
        f"{file}, line 2: '' has no '='",
        f"{file}, line 3: 'NCCL_DEBUG' has no '='",
    ]
    (note,) = (line for line in run.stdout.splitlines() if line.startswith("note: ") and "GLOO_SOCKET_IFNAME" in line)
    assert "OMP_NUM_THREADS" in note
    assert "HF_HOME" not in note
    assert "DS_ACCELERATOR" not in note, "not set here, but by importing deepspeed for the recipe"
    assert "secret" not in run.stdout


def test_without_a_hostfile_this_machine_is_examined_without_ssh(doctor: Doctor, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    shard = next(broken.glob("shards/*/train-00000.arrow"))
    shard.write_bytes(shard.read_bytes()[:-8])
    sound = doctor("--data", data, "--run", tmp_path / "run", PATH="/nowhere")  # no ssh to be found there
    assert (sound.returncode, _problems(sound)) == (0, []), sound.stdout + sound.stderr
    run = doctor("--data", broken)
    (problem,) = _problems(run)
    assert str(shard) in problem
    assert "the manifest says" in problem
    assert run.returncode == 2


def test_the_batch_must_divide_over_the_slots(doctor: Doctor, tmp_path: Path) -> None:
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=3\n")
    run = doctor("--hostfile", hostfile, "--recipe", "demo", "batch.rows_per_step=64", "batch.micro_batch_rows=8")
    assert any("the nearest that is: 72" in problem for problem in _problems(run)), run.stdout + run.stderr
    assert run.returncode == 2


NO_LOCKS = """
import fcntl
def flock(file, operation):
    raise OSError(38, "Function not implemented")  # what Lustre says that was mounted without -o flock
fcntl.flock = flock
"""


def test_a_folder_without_locks_is_named_with_the_mount_option(doctor: Doctor, data: Path, tmp_path: Path) -> None:
    """The doctor and every probe meet the same file system: fcntl.flock as it is there, from before their first line."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_LOCKS)
    path = f"{tmp_path / 'site'}:{ROOT}"
    run = doctor("--data", data, "--run", tmp_path / "run", PYTHONPATH=path)
    (problem,) = _problems(run)
    assert "its file system has no locks (flock: Function not implemented)" in problem
    assert "-o flock" in problem
    assert run.returncode == 2


def test_a_v100_under_a_torch_without_its_kernels_is_told_which_to_install(
    doctor: Doctor, data: Path, tmp_path: Path
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'Tesla V100-SXM2-32GB, 32768, 4, 570.86.15, 7.0'\n")
    smi.chmod(0o755)
    run = doctor("--data", data, PATH=f"{smi.parent}:{os.environ['PATH']}")
    assert any("compute capability 7.0" in problem and "whl/cu126" in problem for problem in _problems(run)), run.stdout


def test_with_nothing_named_the_job_is_that_of_the_bare_command(doctor: Doctor) -> None:
    run = doctor()
    assert "recipe: large (" in run.stdout
    assert "run: runs/large (" in run.stdout
    assert any("data/manifest.json" in problem for problem in _problems(run)), run.stdout
