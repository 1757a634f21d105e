"""One process at a time: files that are locked by flock. The kernel releases a lock however its process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.files import open_kept

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What flock says where there are no locks: Lustre ENOSYS, NFS ENOLCK."""


def lock(descriptor: int, path: Path, wait: bool = False) -> None:
    """Lock an open file for this process, by flock; the kernel releases the lock when the file is closed.

    The file must be open for writing: NFS has no exclusive lock of others, nor of folders.
    Raises BlockingIOError when another process holds it (unless `wait`), InputError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise InputError(
            f"{path}: its file system has no locks (flock: {error.strerror}), so two jobs could write there at once; mount "
            "Lustre with -o flock, NFS without nolock and with lockd on both sides, or take a folder elsewhere"
        ) from None


@contextlib.contextmanager
def exclusive(path: Path, otherwise: str) -> Iterator[Callable[[], bool]]:
    """Hold the lock file `path` within the block; the kernel releases it however the process ends.

    Yields a function that tells whether this process still holds it: on a network file system another host can take a lock
    over. Raises InputError, `otherwise` with the holder's name, when another process holds it.
    """
    with open(open_kept(path), "r+", encoding="utf-8") as file:
        try:
            lock(file.fileno(), path)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().partition(";")[0].strip() or "unknown"
            raise InputError(f"{path.parent}: {otherwise} ({holder}); wait for it, or stop it first") from None
        content = f"process {os.getpid()} on {socket.gethostname()}; {os.urandom(8).hex()}\n"
        file.truncate(0)
        file.write(content)
        file.flush()

        def is_owner() -> bool:
            try:
                return path.read_text(encoding="utf-8") == content
            except FileNotFoundError:
                return False

        yield is_owner


@contextlib.contextmanager
def held_for_a_moment(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block, after waiting for others; no file is left."""
    while True:
        with open(open_kept(path), "rb") as file:
            lock(file.fileno(), path, wait=True)
            if not _is_at(path, file.fileno()):  # whoever held it has removed it: others hold a new one
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
