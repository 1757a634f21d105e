from __future__ import annotations

import ast
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ernie_m.ablation import asked
from ernie_m.base import hostfile
from ernie_m.base.console import InputError
from ernie_m.base.hostfile import (
    check_host_name,
    free_port,
    hosts_of_ranks,
    is_local,
    read_hostfile,
    ssh_command,
    write_hostfile,
)
from ernie_m.hosts.session import remote_agent
from ernie_m.supervision import deepspeed_job, remote
from ernie_m.supervision.deepspeed_job import DeepspeedLauncher, JobCommand

ROOT = Path(__file__).resolve().parents[2]
HOSTFILES = ROOT / "hostfiles"
OPTION = "-oProxyCommand=touch ran"
"""ssh runs it, where it stands in a host's place."""


def test_shipped_hostfiles_are_what_their_names_say() -> None:
    assert read_hostfile(HOSTFILES / "v100x64") == {f"worker-{i}": 8 for i in range(1, 9)}
    assert sum(read_hostfile(HOSTFILES / "h200x8").values()) == 8


def test_comments_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\n\na slots=2  # first\n  b   slots=3\n")
    assert read_hostfile(path) == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a slots=2\nthis is not a hostfile\n", "line 2: 'this is not a hostfile'; expected `name slots=N`"),
        ("a\n", "line 1"),
        ("a slots=0\n", "line 1"),
        ("a slots=-1\n", "line 1: 'a slots=-1'; expected `name slots=N`"),
        ("a slots=\u0663\n", "line 1"),
        (f"a slots={'9' * 5000}\n", "expected `name slots=N` and at most 1,024 slots"),
        ("".join(f"a{i} slots=1024\n" for i in range(129)), "132,096 slots in all, expected at most 131,072"),
        ("a\u2013b slots=1\n", "line 1: 'a\u2013b': not the name of a host"),
        ("a\x0b-b slots=1\n", "line 1: 'a\\x0b-b slots=1'"),
        ("@include /etc/passwd\n", "line 1: '@include /etc/passwd'; expected `name slots=N`"),
        ("a slots=2\na slots=2\n", "line 2: a is listed twice"),
        ("a.b slots=2\nA.b slots=2\n", "line 2: A.b is listed twice"),
        ("\n# nothing\n", "names no host"),
        ("\ufeffa slots=2\n", "line 1: begins with a byte order mark"),
        ("a slots=1\nworker-[1-8] slots=8\n", "line 2: worker-[1-8]: deepspeed expands no ranges; one line a host"),
        ("a\u200b slots=2\n", "line 1: 'a\\u200b': not the name of a host"),
        ("a,b slots=2\n", "line 1: 'a,b': not the name of a host"),
        (
            "a slots=1\n-oProxyCommand=touch${IFS}ran slots=1\n",
            "line 2: '-oProxyCommand=touch${IFS}ran': ssh and pdsh take it",
        ),
        ("exec:a slots=1\n", "line 1: 'exec:a': not the name of a host"),
        ("me@a slots=1\n", "line 1: 'me@a': a name without a user is expected"),
        ("$(touch\u00a0ran)[1] slots=1\n", "line 1"),
        ("a;b slots=1\n", "line 1: 'a;b': not the name of a host"),
        ("fe80::1%-oX slots=1\n", "line 1: 'fe80::1%-oX': not the name of a host"),
        (f"{'a' * 254} slots=1\n", "line 1: 'aaa"),
    ],
)
def test_what_is_no_hostfile_is_one_clear_line(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(InputError, match="hostfile") as caught:
        read_hostfile(path)
    assert expected in str(caught.value)


def test_a_missing_or_binary_hostfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_hostfile(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_hostfile(tmp_path / "binary")


def test_what_is_written_reads_back_and_ranks_are_numbered_in_its_order(tmp_path: Path) -> None:
    hosts = {"b": 2, "a": 1, "10.0.0.3": 3}
    write_hostfile(tmp_path / "hosts", hosts)
    assert list(read_hostfile(tmp_path / "hosts").items()) == list(hosts.items())
    assert hosts_of_ranks(hosts) == ["b", "b", "a", "10.0.0.3", "10.0.0.3", "10.0.0.3"]


def test_this_machine_is_known_by_its_names() -> None:
    assert all(is_local(name) for name in ("localhost", "127.0.0.1", socket.gethostname()))
    assert not is_local("worker-1")


def test_a_free_port_is_free_and_none_that_connections_take() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1
    assert 20_000 <= min(ports) <= max(ports) < 32_768  # Linux's first ephemeral port
    for host, family in (("127.0.0.1", socket.AF_INET), ("::", socket.AF_INET6)):
        with socket.create_server((host, min(ports)), family=family) as taken:  # by SO_REUSEADDR, as torch's store
            assert taken.getsockname()[1] == min(ports)


def test_a_port_that_was_given_away_is_not_given_again_before_anything_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    ports = iter([first, first, first + 1, first + 2, first + 3])
    monkeypatch.setattr("ernie_m.base.hostfile.likely_port", lambda: next(ports))
    assert free_port() > first


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", free_port())) as listening:
        taken = listening.getsockname()[1]
        drawn = iter([taken - 20_000, 7_777, 7_778, 7_779])
        monkeypatch.setattr(hostfile.secrets, "randbelow", lambda _: next(drawn))
        assert free_port() != taken


def test_what_is_refused_deepspeed_would_take_as_it_stands(tmp_path: Path) -> None:
    """Its own parser expands nothing: ssh would be given these names."""
    from deepspeed.launcher.runner import fetch_hostfile

    (tmp_path / "hosts").write_text("\ufeffa slots=2\nworker-[1-8] slots=8\n", encoding="utf-8")
    assert list(fetch_hostfile(str(tmp_path / "hosts"))) == ["\ufeffa", "worker-[1-8]"]


# -- names that would be run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["worker-1", "10.0.0.3", "a.b-c_d.example", "fe80::1", "::1", "a" * 253])
def test_names_and_addresses_are_taken(name: str) -> None:
    check_host_name(name, "here")


def test_ssh_itself_would_run_what_a_host_of_that_name_says_and_ours_never_does(tmp_path: Path) -> None:
    """The hole, with the real ssh, and that `--` closes it even where a name is not looked at."""
    if (ssh := shutil.which("ssh")) is None:
        pytest.skip("no ssh on this machine")
    option = f"-oProxyCommand=touch {tmp_path}/ran"
    subprocess.run([ssh, "-F", "/dev/null", option, "nowhere.invalid"], capture_output=True, check=False, timeout=60)
    assert (tmp_path / "ran").exists(), "guards against a test that shows nothing"
    (tmp_path / "ran").unlink()
    *before, host, remote = ssh_command("nowhere.invalid", ["-F", "/dev/null"], "true")
    assert (before[-1], host, remote) == ("--", "nowhere.invalid", "true")
    subprocess.run([*before, option, "nowhere.invalid"], capture_output=True, check=False, timeout=60)
    assert not (tmp_path / "ran").exists()


def test_all_that_reaches_other_hosts_looks_at_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(remote.subprocess, "run", lambda *words, **_: calls.append(words))
    monkeypatch.setattr(deepspeed_job.subprocess, "Popen", lambda *words, **_: calls.append(words))
    command = JobCommand((__file__, "--run", str(tmp_path / "run")))
    (tmp_path / "hosts").write_text(f"a slots=1\n{OPTION.replace(' ', '${IFS}')} slots=1\n")
    tried = [
        lambda: ssh_command(OPTION, [], "true"),
        lambda: remote_agent(OPTION, [], {}),
        lambda: deepspeed_job.reachable([OPTION], []),
        lambda: deepspeed_job.end_remote_orphans([OPTION], [], command),
        lambda: DeepspeedLauncher(command).start({"a": 1, OPTION: 1}, tmp_path),
        lambda: DeepspeedLauncher(command, master_addr=OPTION),
        lambda: asked.check_hosts(("--hostfile", str(tmp_path / "hosts"))),
        lambda: asked.check_hosts((f"--master_addr={OPTION}",)),
    ]
    for attempt in tried:
        with pytest.raises(InputError, match="ssh and pdsh take it for an option"):
            attempt()
    assert calls == []


def test_other_hosts_are_reached_by_one_command_alone() -> None:
    """No other code of ours has ssh as a word of its own."""
    words, found = ("ssh", "pdsh", "rsh", "scp"), set()
    for path in [*(ROOT / "ernie_m").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py"), *(ROOT / "launcher").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if not any(f'"{word}"' in text for word in words):
            continue
        for node in ast.walk(ast.parse(text)):
            first = node.elts[:1] if isinstance(node, ast.List | ast.Tuple) else []
            if any(isinstance(word, ast.Constant) and word.value in words for word in first):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {"ernie_m/base/hostfile.py"}
