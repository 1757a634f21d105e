from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ernie_m.base import hostfile
from ernie_m.base.console import InputError
from ernie_m.base.hostfile import free_port, hosts_of_ranks, is_local, read_hostfile, write_hostfile

HOSTFILES = Path(__file__).resolve().parents[2] / "hostfiles"


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
        ("a slots=2\na slots=2\n", "line 2: a is listed twice"),
        ("\n# nothing\n", "names no host"),
        ("\ufeffa slots=2\n", "line 1: begins with a byte order mark"),
        ("a slots=1\nworker-[1-8] slots=8\n", "line 2: worker-[1-8]: deepspeed expands no ranges; one line a host"),
        ("a\u200b slots=2\n", "line 1: 'a\\u200b': not the name of a host"),
        ("a,b slots=2\n", "line 1: 'a,b': not the name of a host"),
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
    with socket.socket() as taken:
        taken.bind(("", min(ports)))


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("", free_port()))
        listening.listen()
        taken = listening.getsockname()[1]
        drawn = iter([taken - 20_000, 7_777, 7_778, 7_779])
        monkeypatch.setattr(hostfile.secrets, "randbelow", lambda _: next(drawn))
        assert free_port() != taken


def test_what_is_refused_deepspeed_would_take_as_it_stands(tmp_path: Path) -> None:
    """Its own parser expands nothing: ssh would be given these names."""
    from deepspeed.launcher.runner import fetch_hostfile

    (tmp_path / "hosts").write_text("\ufeffa slots=2\nworker-[1-8] slots=8\n", encoding="utf-8")
    assert list(fetch_hostfile(str(tmp_path / "hosts"))) == ["\ufeffa", "worker-[1-8]"]
