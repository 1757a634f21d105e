"""One process at a time holds a lock, and its end lets it go."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.locks import exclusive, held_for_a_moment
from ernie_m.hosts.host_agent import problem_of_lock

HOLDER = """
import sys, time
from pathlib import Path
from ernie_m.base.locks import exclusive
with exclusive(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_holder_and_outlives_no_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = rf"busy \(process {holder.pid} on \S+\); wait for it, or stop it first"
        with pytest.raises(InputError, match=expected), exclusive(path, "busy"):
            pass
        content = path.read_text()
    finally:
        holder.kill()
        holder.wait()
    assert path.read_text() == content, "nobody tidied up after kill -9"
    with exclusive(path, "busy") as is_owner:
        assert is_owner()
        assert f"process {os.getpid()} on " in path.read_text()
        assert str(holder.pid) not in path.read_text()


def test_a_refused_attempt_does_not_disturb_the_holder(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", "busy") as is_owner:
        with pytest.raises(InputError, match="busy"), exclusive(tmp_path / "lock", "busy"):
            pass
        assert is_owner()
    with exclusive(tmp_path / "lock", "busy") as again:
        assert again()
        assert not is_owner(), "a former holder is none"


def test_a_lock_lost_to_somebody_else_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, "busy") as is_owner:
        content = path.read_text()
        path.write_text("process 1 on elsewhere; 00\n")
        assert not is_owner()
        path.write_text(content)
        assert is_owner()
        path.unlink()
        assert not is_owner()
        with exclusive(path, "busy") as other:  # over a network file system: another file of that name
            assert other()
            assert not is_owner()


def test_the_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), exclusive(tmp_path / "lock", "busy"):
        raise RuntimeError("inside")
    with exclusive(tmp_path / "lock", "busy") as is_owner:
        assert is_owner()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_the_mount_option(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre and NFS as they answer: no such file system can be mounted here."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    expected = r"lock: its file system has no locks \(flock: .*\).* Lustre with -o flock, NFS without nolock"
    with pytest.raises(InputError, match=expected), exclusive(tmp_path / "lock", "busy"):
        raise AssertionError


def as_on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """flock as NFS has it, by locks of bytes: an exclusive one needs a file that can be written."""
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_locks_are_had_on_nfs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_nfs(monkeypatch)
    with exclusive(tmp_path / "lock", "busy"), held_for_a_moment(tmp_path / "other"):
        assert problem_of_lock(tmp_path / "lock") is None, "the doctor of another host sees it"
    said = problem_of_lock(tmp_path / "lock")
    assert said is not None
    assert "not seen here" in said


def test_a_lock_for_a_moment_lets_one_in_at_a_time_and_leaves_nothing(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(50):
            with held_for_a_moment(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (200, 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), held_for_a_moment(tmp_path / "lock"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
