"""The doctor's judgement: answers of a real agent, altered; and the agent's own parts, for real on this machine."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import io
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.config import build
from ernie_m.base.console import InputError
from ernie_m.base.network import own_addresses
from ernie_m.commands.doctor import doctor
from ernie_m.hosts import host_agent, job_checks, link, session
from ernie_m.hosts.checks import CHECKS, Report, judge
from ernie_m.hosts.examination import Results
from ernie_m.hosts.session import HostError, HostSession
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.supervision.environment import DEEPSPEED_EXPORTS, OLD_DEEPSPEED_EXPORTS
from ernie_m.training.recipe import TrainingConfig

HOSTS = ("worker-1", "worker-2", "worker-3", "worker-4")
GPU = {"name": "NVIDIA H200", "total_mib": 143771, "used_mib": 4, "driver": "570.86.15", "capability": "9.0"}
GB = 10**9


@pytest.mark.parametrize("given", [{"ssh_port": 22}, {"ssh_options": "-F x"}, {"bandwidth": True}])
def test_the_doctor_of_one_machine_refuses_what_is_between_hosts(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(given))}: no other host is to be reached"):
        doctor(data="data", **given)


def test_the_doctor_writes_over_no_file_of_others(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("years of work\n")
    with pytest.raises(InputError, match=r"--json \S*corpus\.txt: there already, and not of measure doctor"):
        doctor(data=str(tmp_path / "none"), json=str(tmp_path / "corpus.txt"))
    assert (tmp_path / "corpus.txt").read_text() == "years of work\n"


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the real agent says of this machine, through JSON as it comes from a host."""
    return dict(json.loads(json.dumps(host_agent.facts())))


@pytest.fixture
def sound(answers: dict[str, Any]) -> Results:
    """Four hosts like this one, with 2 GPUs each and nothing wrong."""
    results: Results = {}
    for number, host in enumerate(HOSTS):
        facts = copy.deepcopy(answers)
        facts["gpus"] = [dict(GPU), dict(GPU)]
        facts["torch"] |= {"built_for": ["sm_75", "sm_80", "sm_90", "compute_120"]}
        facts["torch"] |= {"devices": 2, "cuda": "13.0", "nccl": "2.27.3"}
        facts |= {"nofile": 1 << 20, "shm_bytes": 64 << 30, "cores": 16, "memlock": -1}
        facts["data"] = {"manifest": "a" * 64, "tokenizer": "b" * 64}
        results[host] = {
            "slots": 2,
            "ssh": {"seconds": 0.3},
            "clock": {"ahead": 0.001, "round_trip": 0.002},
            "facts": facts,
            "share": {"free_bytes": 500 * GB},
            "route": {"tried": {"10.0.0.1": None}, "address": f"10.0.0.{number + 1}", "interface": "eth0"},
            "ring": {"to": HOSTS[(number + 1) % 4], "gbit_per_second": 9.0 + number / 10},
        }
    return results


def only_problem(results: Results, disk_bytes: int = 0) -> tuple[str, Report]:
    report = judge(results, disk_bytes)
    assert len(report.problems) == 1, report.problems
    return str(report.problems[0]), report


def test_sound_hosts_have_no_problem_and_a_row_each(sound: Results) -> None:
    report = judge(sound, disk_bytes=400 * GB)
    assert report.problems == []
    head, *rows = report.table().splitlines()
    assert [row.split()[0] for row in rows] == list(HOSTS)
    assert all(name in head for name in CHECKS)
    assert "2 x NVIDIA H200" in rows[0]


ALTERATIONS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    # what: (where in worker-3's answers, the value there, what is said)
    "clock ahead": (("clock", "ahead"), 3.5, "3.5 s ahead of"),
    "clock behind": (("clock", "ahead"), -1.2, "1.2 s behind"),
    "package": (("facts", "software", "torch"), "2.5.0", "torch 2.5.0, the others have"),
    "no package": (("facts", "software", "pyarrow"), None, "pyarrow is not installed"),
    "python": (("facts", "software", "Python"), "3.8.0", "Python 3.8.0, the others have"),
    "nccl": (("facts", "torch", "nccl"), "2.20.5", "NCCL 2.20.5, the others have 2.27.3"),
    "cuda": (("facts", "torch", "cuda"), "12.4", "CUDA of torch 12.4, the others have 13.0"),
    "driver": (("facts", "gpus"), [GPU | {"driver": "550.1"}] * 2, "driver 550.1, the others have 570.86.15"),
    "source": (("facts", "source"), "f" * 64, "its ernie_m is another"),
    "manifest": (("facts", "data", "manifest"), "c" * 64, "data: manifest cccccccc is another"),
    "tokenizer": (("facts", "data", "tokenizer"), "c" * 64, "is another than the others'"),
    "no data": (("facts", "data"), {"error": "D/manifest.json: No such file"}, "data: D/manifest.json: No such file"),
    "too few GPUs": (("facts", "gpus"), [GPU], "1 GPUs, the hostfile says slots=2"),
    "other GPUs": (("facts", "gpus"), [GPU | {"name": "NVIDIA A100"}] * 2, "has NVIDIA A100, most GPUs are NVIDIA H200"),
    "GPU taken": (("facts", "gpus"), [GPU, GPU | {"used_mib": 40960}], "memory in use already: GPU 1 40.0 GiB"),
    "GPUs unseen": (("facts", "torch", "devices"), 0, "torch sees 0 of its 2 GPUs"),
    "broken driver": (("facts", "gpus"), [{"error": "nvidia-smi says: no devices"}], "nvidia-smi says: no devices"),
    "not shared": (("share",), {"error": "RUN is not there"}, "shared folder: RUN is not there"),
    "disk": (("share", "free_bytes"), 399 * GB, "399.0 GB free at the run, its checkpoints need 400.0 GB"),
    "cores": (("facts", "cores"), 1, "2 ranks on 1 cores"),
    "files": (("facts", "nofile"), 256, "ulimit -n is 256"),
    "shm": (("facts", "shm_bytes"), 64 << 20, "/dev/shm has 64 MiB"),
    "route": (("route", "tried"), {"10.0.0.1": "timed out"}, "no connection to the first host at 10.0.0.1: timed out"),
    "slow link": (("ring", "gbit_per_second"), 4.0, "4 Gbit/s to worker-4, the median link has"),
    "no link": (("ring",), {"to": "worker-4", "error": "refused"}, "no stream to worker-4: refused"),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_what_is_wrong_on_one_host_is_said_of_it_alone(what: str, sound: Results) -> None:
    (*path, last), value, expected = ALTERATIONS[what]
    place: Any = sound["worker-3"]
    for key in path:
        place = place[key]
    place[last] = value
    if what == "too few GPUs":
        sound["worker-3"]["facts"]["torch"]["devices"] = 1
    problem, report = only_problem(sound, disk_bytes=400 * GB)
    assert problem.startswith("worker-3: ")
    assert expected in problem
    marked = {host: [name for name, (_, is_wrong) in row.items() if is_wrong] for host, row in report.cells.items()}
    assert [host for host, names in marked.items() if names] == ["worker-3"]
    (row,) = (line for line in report.table().splitlines() if line.startswith("worker-3"))
    assert "  x" in row


def test_the_same_problem_of_several_hosts_is_one_line(sound: Results) -> None:
    for host in ("worker-2", "worker-4"):
        sound[host]["facts"]["software"]["numpy"] = None
    problem, _ = only_problem(sound)
    assert problem.startswith("worker-2, worker-4: numpy is not installed")


def test_between_two_that_differ_the_first_is_right(sound: Results) -> None:
    two = {host: sound[host] for host in HOSTS[:2]}
    two["worker-2"]["facts"]["source"] = "0" * 64
    assert only_problem(two)[0].startswith("worker-2: ")


def test_an_unreachable_host_has_a_row_and_spoils_no_comparison(sound: Results) -> None:
    sound["worker-1"] = {"slots": 2, "ssh": {"error": "ssh: connect to host worker-1 port 22: Connection timed out"}}
    problem, report = only_problem(sound)
    assert "worker-1" in problem
    assert "--exclude" in problem
    assert "worker-1  x " in report.table()


def test_a_slow_round_trip_is_no_skew(sound: Results) -> None:
    sound["worker-2"]["clock"] = {"ahead": 1.9, "round_trip": 2.0}
    assert judge(sound).problems == []


@pytest.mark.parametrize(("threads", "is_wrong"), [(None, True), ("8", False), ("16", True), ("rubbish", True)])
def test_on_cpus_the_threads_of_all_ranks_must_fit_the_cores(threads: str | None, is_wrong: bool, sound: Results) -> None:
    for result in sound.values():
        result["facts"]["gpus"], result["facts"]["torch"]["devices"] = [], 0
        result["facts"]["omp_num_threads"] = threads
    assert bool(judge(sound).problems) == is_wrong
    assert {row["GPUs"][0] for row in judge(sound).cells.values()} == {"none"}


def test_a_host_without_gpus_among_others_is_a_problem(sound: Results) -> None:
    sound["worker-2"]["facts"]["gpus"], sound["worker-2"]["facts"]["torch"]["devices"] = [], 0
    sound["worker-2"]["facts"]["omp_num_threads"] = "1"
    assert "worker-2: 0 GPUs, the hostfile says slots=2" in str(judge(sound).problems[0])


def test_infiniband_wants_locked_memory(sound: Results) -> None:
    for result in sound.values():
        result["facts"] |= {"infiniband": ["mlx5_0"], "memlock": 8 << 20}
    problem, _ = only_problem(sound)
    assert "ulimit -l is 8192 KiB" in problem


def test_nvidia_smi_is_read_as_it_writes() -> None:
    text = "NVIDIA H200, 143771, 4, 570.86.15, 9.0\nNVIDIA GH200 480GB, [N/A], [N/A], 570.86.15, 9.0\n"
    assert host_agent.read_gpus(text) == [GPU, {**GPU, "name": "NVIDIA GH200 480GB", "total_mib": 0, "used_mib": 0}]


def test_a_gpu_that_torch_has_no_kernels_for_is_named_with_the_build_to_install(sound: Results) -> None:
    """A V100, and the torch that `pip install torch` brings: green until now."""
    for host in HOSTS:
        sound[host]["facts"]["gpus"] = [GPU | {"name": "Tesla V100-SXM2-32GB", "capability": "7.0"}] * 2
        sound[host]["facts"]["torch"]["built_for"] = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
    problem, report = only_problem(sound)
    assert problem.startswith("worker-1, worker-2, worker-3, worker-4: Tesla V100-SXM2-32GB: torch ")
    assert "not for compute capability 7.0" in problem
    assert "https://download.pytorch.org/whl/cu126" in problem
    assert report.cells["worker-1"]["GPUs"][1]
    for host in HOSTS:
        sound[host]["facts"]["torch"]["built_for"] = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
    assert judge(sound).problems == []


def test_a_name_that_leads_nobody_to_its_host_is_noted_and_keeps_no_job_from_starting(sound: Results) -> None:
    sound["worker-2"]["facts"]["own_name"] = {"name": "worker-2", "addresses": ["127.0.1.1"], "loopback": ["127.0.1.1"]}
    for host in HOSTS[:1] + HOSTS[2:]:
        sound[host]["facts"]["own_name"] = {"name": host, "addresses": ["10.0.0.9"], "loopback": []}
    report = judge(sound)
    (note,) = map(str, report.notes)
    assert report.problems == []
    assert note.startswith("worker-2: its own name worker-2 stands for 127.0.1.1 there")
    assert "`10.0.0.2 worker-2` in /etc/hosts" in note
    assert report.cells["worker-1"]["own name"] == ("10.0.0.9", False)


def test_a_folder_where_another_hosts_lock_is_not_seen_is_a_problem(sound: Results, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert host_agent.problem_of_lock(tmp_path / "lock") is None
    said = host_agent.problem_of_lock(tmp_path / "lock")  # held by nobody, as on a mount whose locks stay on their host
    assert said is not None
    sound["worker-3"]["share"]["lock"] = said
    problem, _ = only_problem(sound)
    assert problem.startswith("worker-3: run folder: a lock that another host holds is not seen here")
    assert "-o flock" in problem


def test_the_probe_starts_without_any_package() -> None:
    packages = ("torch", "numpy", "pyarrow", "yaml", "deepspeed", "transformers", "sentencepiece", "fire")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({packages})); import ernie_m.hosts.host_agent as p; print(p.facts())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ModuleNotFoundError" in done.stdout, "that torch does not import is an answer"


def test_the_doctor_starts_where_torch_is_broken() -> None:
    modules = "ernie_m.hosts.job_checks, ernie_m.hosts.examination, ernie_m.supervision.deepspeed_job"
    program = f"import sys; sys.modules['torch'] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_agent, "FILE_PATIENCE", 0.0)


@pytest.mark.usefixtures("impatient")
def test_an_error_is_an_answer_and_the_next_question_is_answered_too() -> None:
    questions = [
        {"ask": "share", "folder": "/nowhere/at/all", "name": "a", "token": "b"},
        {"ask": "listen"},
        {"ask": "clock"},
    ]
    written = io.StringIO()
    host_agent.serve(io.StringIO("".join(json.dumps(question) + "\n" for question in questions)), written)
    ready, error, crash, clock = (json.loads(line)["answer"] for line in written.getvalue().splitlines())
    assert ready == {"ready": True}
    assert error == {"error": "/nowhere/at is not there"}
    assert crash["error"].startswith("TypeError: ")
    assert clock["time"] > 1.6e9


@pytest.mark.usefixtures("impatient")
def test_a_shared_folder_must_hold_what_was_just_written(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("of an earlier look")
    with pytest.raises(InputError, match="what is written here is not seen"):
        host_agent.share(str(tmp_path), "host-0", "token")
    (tmp_path / "here").write_text("token")
    assert host_agent.share(str(tmp_path), "host-0", "token")["free_bytes"] > 0
    assert (tmp_path / "host-0").read_text() == "token host-0"


def test_the_source_hash_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    hashes = [host_agent.source_hash(tmp_path)]
    (tmp_path / "a.py").write_text("x = 2\n")
    hashes.append(host_agent.source_hash(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    hashes.append(host_agent.source_hash(tmp_path))
    (tmp_path / "notes.txt").write_text("not code")
    assert len(set(hashes)) == 3
    assert host_agent.source_hash(tmp_path) == hashes[-1]


def test_a_link_counts_what_arrived_and_serves_nobody_else() -> None:
    listener = link.Listener(0, secret="ours")
    assert link.connect("127.0.0.1", listener.port, "ours")["address"] == "127.0.0.1"
    assert link.stream("127.0.0.1", listener.port, "ours", seconds=0.1)["gbit_per_second"] > 0
    with pytest.raises(ConnectionError, match="another program"):
        link.connect("127.0.0.1", listener.port, "theirs")


@pytest.mark.parametrize("said", [b"[]\n", b"[" * 4000 + b"\n", b"\xff\n", b"no line at all"])
def test_what_is_no_greeting_is_one_clear_line_at_both_ends(said: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """A stranger says it to our listener, and answers our call with it."""
    listener = link.Listener(0, secret="ours")
    with socket.create_connection(("127.0.0.1", listener.port), 10) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]

        def answer() -> None:
            connection, _ = theirs.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(ConnectionError, match=f"^127.0.0.1:{port} is answered by another program$"):
            link.connect("127.0.0.1", port, "ours")
        answering.join()
    assert capfd.readouterr().err == "", "no traceback of a thread"


@pytest.mark.parametrize("said", [b"[]", b"{}", b'{"bytes": []}', b"[" * 4000])
def test_a_count_that_is_none_is_another_programs(said: bytes) -> None:
    with pytest.raises(ConnectionError, match="a:1 is answered by another program"):
        link._counted(said, "a:1")


def test_a_link_is_open_at_the_addresses_that_are_tried_and_no_other() -> None:
    def places(*names: str) -> set[str]:
        listener = link.Listener(0, "ours", names)
        found = {listening.getsockname()[0] for listening in listener.sockets}
        assert {listening.getsockname()[1] for listening in listener.sockets} == {listener.port}
        return found

    everywhere = places()
    assert everywhere <= {"::", "0.0.0.0"}
    assert places("127.0.0.1") == {"127.0.0.1"}
    assert places("127.0.0.3", "127.0.0.1") == {"127.0.0.1", "127.0.0.3"}
    others = [*own_addresses(), "127.0.0.2"]
    assert places(*others) == set(others)
    assert places("127.0.0.1", "localhost") == everywhere, "a name that means another address on each host"
    assert places("127.0.0.1", "no-such-host.invalid") == everywhere


def test_a_taken_port_is_replaced_and_said() -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        answer = host_agent.listen(port, "secret")
    assert answer["is_taken"]
    assert answer["port"] != port
    assert not host_agent.listen(0, "secret")["is_taken"]


def _ask(command: list[str], *questions: str) -> list[dict[str, Any]]:
    async def talk() -> list[dict[str, Any]]:
        host = HostSession("host", command)
        try:
            await host.start()
            return [await host.ask(question) for question in questions]
        finally:
            await host.close()

    return asyncio.run(talk())


def test_a_greeting_of_the_login_shell_is_no_answer() -> None:
    script = f'echo "Welcome!"; echo "[1]"; exec {" ".join(session.AGENT)}'
    (clock,) = _ask(["sh", "-c", script], "clock")
    assert clock["time"] > 1.6e9


def test_the_far_shell_gets_folder_and_environment_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder; of 'mine'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    environment = {"PYTHONPATH": str(Path(host_agent.__file__).parents[2]), "OMP_NUM_THREADS": "3 $HOME"}
    *ssh, end, host, remote = session.remote_agent("worker-1", ["-p", "2222"], environment)
    assert (end, host) == ("--", "worker-1")
    assert ssh[0] == "ssh"
    assert ssh[-2:] == ["-p", "2222"]
    assert "BatchMode=yes" in ssh, "a password asked at the terminal would stop deepspeed too"
    (facts,) = _ask(["sh", "-c", f"cd / && {remote}"], "facts")
    assert facts["omp_num_threads"] == "3 $HOME"


def test_what_a_library_prints_does_not_spoil_an_answer(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('no line end: ', end='', flush=True)")
    (facts,) = _ask(["env", f"PYTHONPATH={tmp_path}", *session.AGENT], "facts")
    assert facts["torch"]["error"].startswith("AttributeError")


def test_a_host_that_hangs_or_ends_is_an_error_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "START_SECONDS", 0.2)
    with pytest.raises(HostError, match="no answer within 0 s"):
        _ask(["sleep", "600"])
    monkeypatch.setattr(session, "START_SECONDS", 20.0)
    with pytest.raises(HostError, match="last words"):
        _ask(["sh", "-c", "echo first >&2; echo last words >&2; exit 1"])


SHAPES = [
    ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=100, num_languages=3),
    ModelConfig(num_layers=3, hidden_size=48, num_heads=2, ffn_size=80, vocab_size=77, num_languages=12, max_positions=34),
    ModelConfig(num_layers=1, hidden_size=16, num_heads=1, ffn_size=16, vocab_size=50),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parameters_are_counted_without_making_them(shape: ModelConfig) -> None:
    assert job_checks.parameter_count(shape) == sum(parameter.numel() for parameter in Encoder(shape).parameters())


def test_the_disk_holds_one_checkpoint_more_than_are_kept(tmp_path: Path) -> None:
    def recipe(**output: int) -> TrainingConfig:
        return build(TrainingConfig, {"stages": [{"steps": 100, "rows": {"MMLM": 1}}], "output": output}, "test")

    data = {"vocab_size": 100, "languages": 3}
    parameters = job_checks.parameter_count(ModelConfig(vocab_size=100, num_languages=3))
    assert job_checks.disk_needed(recipe(keep_last=3), data, None) == parameters * (12 * 4 + 4)
    assert job_checks.disk_needed(recipe(keep_last=3, keep_every=40), data, None) == parameters * (12 * 6 + 4)
    assert job_checks.disk_needed(recipe(), {}, None) > job_checks.disk_needed(recipe(), data, None), (
        "without data the vocabulary is XLM-R's"
    )
    for step in range(9):  # a run that goes on needs room for one more
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    assert job_checks.disk_needed(recipe(keep_last=3), data, tmp_path) == parameters * (12 + 4)


def test_a_model_of_another_vocabulary_than_the_datas_is_a_problem() -> None:
    content = {"stages": [{"steps": 1, "rows": {"MMLM": 1}}], "model": {"vocab_size": 99}}
    config = build(TrainingConfig, content, "test")
    (problem,) = job_checks.recipe_problems(config, 1, {"vocab_size": 100, "languages": 3})
    assert "model.vocab_size: 99; expected 100" in str(problem)
    assert job_checks.recipe_problems(config, 1, {}) == []


def test_lines_on_which_deepspeed_stops_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ENV_FILE", str(tmp_path / "env"))
    (tmp_path / "env").write_text("A=1\n\n# note\nB=2\n")
    said = [str(problem) for problem in job_checks.launch_problems()]
    assert [number for number in (1, 2, 3, 4) if any(f"line {number}:" in line for line in said)] == [2, 3]


def test_what_is_listed_for_deepspeed_or_exported_by_it_needs_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ENV_FILE", str(tmp_path / "env"))
    (tmp_path / "env").write_text("HF_HOME=/cache\n")
    here = {"OMP_NUM_THREADS": "4", "HF_HOME": "/cache", "NCCL_DEBUG": "INFO", "PYTHONPATH": "x", "HOME": "/root"}
    assert job_checks.not_exported(here, has_gpus=True) == ["OMP_NUM_THREADS"]
    assert job_checks.not_exported(here, has_gpus=False) == ["NCCL_DEBUG", "OMP_NUM_THREADS"], (
        "a login node exports no NCCL_*"
    )
    (note,) = job_checks.launch_notes(here, has_gpus=False)
    assert str(note).startswith(
        "NCCL_DEBUG, OMP_NUM_THREADS: set here, but deepspeed does not pass them on; `ernie-m supervise`"
    )
    assert job_checks.launch_notes({"HF_HOME": "/cache"}, has_gpus=False) == []


def test_a_probe_has_the_threads_that_ranks_will_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ENV_FILE", str(tmp_path / "env"))
    here = {"OMP_NUM_THREADS": "4", "PYTHONPATH": "x", "HOME": "/root", "PYTHON_KEYRING_PASSWORD": "on no command line"}
    assert job_checks.environment_of_ranks(here) == {"OMP_NUM_THREADS": "4", "PYTHONPATH": "x"}
    (tmp_path / "env").write_text("OMP_NUM_THREADS=2\nHF_TOKEN=secret\n")
    assert job_checks.environment_of_ranks(here) == {"OMP_NUM_THREADS": "2", "PYTHONPATH": "x"}, "the file wins"


def test_deepspeed_exports_what_is_written_here_of_it() -> None:
    from deepspeed.launcher import runner

    known = (*DEEPSPEED_EXPORTS, *OLD_DEEPSPEED_EXPORTS)
    assert set(DEEPSPEED_EXPORTS) <= set(runner.EXPORT_ENVS)
    assert [name for name in runner.EXPORT_ENVS if not name.startswith(known)] == []


def test_an_error_of_the_data_is_the_hosts_and_names_the_file(tmp_path: Path) -> None:
    assert "No such file" in host_agent.facts(str(tmp_path))["data"]["error"]
    for forged, complaint in (
        ("[" * 100_000, "not a manifest"),
        (" " * (2**26 + 1), "which no such file needs"),
        ("{}", "not a manifest"),
    ):
        (tmp_path / "manifest.json").write_text(forged)
        assert complaint in host_agent.facts(str(tmp_path))["data"]["error"]
    with pytest.raises(InputError):
        host_agent.shard_sizes(str(tmp_path))
