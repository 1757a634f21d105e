"""Files under their final name are whole: written under a temporary name, fsynced, then renamed.

The one owner of temporary names and of files that go on under their name (ernie_m.base.locks locks them). A folder may be
a stranger's, or others may write there: a link that lies where we write would send our bytes to its target. So temporary
names cannot be guessed, and what is opened by name is a plain file with no other name, or an error (`open_kept`). Deleting
follows a link only where people make them, to a bigger disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.process_end import clean_end

LEFT_OVER = r"\.\d+(\.[0-9a-f]{16})?\.tmp"
"""How a temporary name ends, behind `.NAME`; of earlier releases without the random part."""
_ASIDE = re.compile(rf"\..+{LEFT_OVER}")
MOST_SMALL = 1 << 26
"""Bytes: manifests of large folders and tokenizers in JSON take a few MiB."""
HASHED_MIB = 4
"""Of a file between two calls of `on_progress`."""


def sha256_of(path: Path, piece_bytes: int = HASHED_MIB << 20, on_progress: Callable[[], None] = lambda: None) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(piece_bytes):
            digest.update(piece)
            on_progress()
    return digest.hexdigest()


def sha256_of_all(paths: Iterable[Path], folder: Path, on_progress: Callable[[], None] = lambda: None) -> str:
    """Hex SHA-256 over the names, below `folder`, and contents of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder)} {sha256_of(path, on_progress=on_progress)}\n".encode())
    return digest.hexdigest()


def read_small(path: Path, encoding: str = "utf-8", most: int = MOST_SMALL) -> str:
    """The text of a file that has no reason to be long, and may be a stranger's.

    Raises InputError for a longer one, and for a pipe or device in a folder: it may have no end. One that the shell made,
    `<(command)`, is read.
    """
    is_pipe = path.exists() and not (path.is_file() or path.is_dir())
    if is_pipe and not path.absolute().is_relative_to("/dev/fd"):
        raise InputError(f"{path}: a pipe or device, expected a file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: more than {most:,} bytes, which no such file needs")
    return content.decode(encoding)


def read_json(path: Path, most: int = MOST_SMALL) -> Any:
    """The content of such a JSON file. Raises also ValueError or RecursionError for what is none."""
    return json.loads(read_small(path, most=most))


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed over it when the block ends well, removed when it does not.

    Also when it is ended by SIGTERM; a killed process leaves it.
    """
    aside = _aside_of(path)
    with clean_end:
        try:
            yield aside
            fsync_path(aside)
            os.replace(aside, path)
            fsync_path(path.parent)
        except OSError as error:  # a full disk does not say which file it has no room for; others name the one aside
            if error.filename in (None, str(aside)) and error.errno is not None:
                raise OSError(error.errno, error.strerror, str(path)) from None
            raise
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_atomically(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which must be empty or gone at the end of the block, and gets its place then."""
    aside = _aside_of(folder)
    aside.parent.mkdir(parents=True, exist_ok=True)
    with clean_end:
        try:
            aside.mkdir()
            yield aside
            aside.rename(folder)
        finally:
            remove(aside)


def open_kept(path: Path, flags: int = os.O_RDWR) -> int:
    """Descriptor of a file that goes on under its name, such as a lock, a log or a `.part`; made if need be.

    Raises OSError for a link, a file with a second name or no plain file: what is written there would land elsewhere.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_ours(path, f"a symbolic link to {os.readlink(path)}") from None
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, a socket
            raise _not_ours(path, "no plain file") from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _not_ours(path, "a file with a second name (hard link)" if stat.S_ISREG(status.st_mode) else "no plain file")


def _not_ours(path: Path, found: str) -> OSError:
    return OSError(
        errno.ELOOP, f"{found}; expected a file of its own; remove it, and give the same command again", str(path)
    )


def open_log(path: Path) -> io.FileIO:
    """A file to append to, as `open_kept` opens it; unbuffered."""
    return io.FileIO(open_kept(path, os.O_WRONLY | os.O_APPEND), "ab")


def refuse_existing(option: str, *paths: Path, overwrite: bool = False) -> None:
    """Raise InputError when one of the files that `option` names is there already: only `--overwrite` replaces it."""
    taken = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if taken:
        raise InputError(f"{option} {taken[0]}: exists and stays as it is; give another name, or add --overwrite")


def require_new_folder(option: str, path: Path) -> None:
    """Raise InputError when the folder that `option` names holds something, or is no folder."""
    if path.is_symlink():
        raise InputError(f"{option} {path}: a link to {os.readlink(path)}; give a new folder, or what it leads to")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{option} {path}: {'not empty' if path.is_dir() else 'no folder'}; give a new folder")


def require_outside(option: str, folder: Path, read: Mapping[str, str | Path | None]) -> None:
    """Raise InputError when the folder to write, which `option` names, is one that is read, or lies in it.

    `read`: option -> what it names; a file, and the name of a model in the hub, hold no folder.
    """
    place = folder.resolve()
    for name, given in read.items():
        if given is not None and Path(given).is_dir() and place.is_relative_to(Path(given).resolve()):
            where = "is" if place == Path(given).resolve() else "lies in"
            raise InputError(f"{option} {folder}: {where} {name} {given}, which is read; give a folder outside of it")


def require_folder_of(option: str, path: Path) -> None:
    """Raise InputError when the file that `option` names cannot stand there: its folder is missing, or it is no file.

    Before the work, not behind it. A device such as /dev/null would become a file for everybody. Raises OSError for a folder
    in which nothing can be written.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        what = "a folder" if path.is_dir() else "a pipe or device"
        raise InputError(f"{option} {path}: {what}; expected the name of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    require_writable(path.parent)


def is_left_over(path: Path) -> bool:
    """Whether this is a temporary file or folder of ours. If nobody is writing now, a killed process left it."""
    return _ASIDE.fullmatch(path.name) is not None and (path.is_file() or path.is_dir()) and not path.is_symlink()


def remove_left_overs(folder: Path) -> None:
    """Remove temporary files that killed processes left in `folder`. Only for the one process that writes there."""
    with contextlib.suppress(OSError):
        for path in filter(is_left_over, [*folder.iterdir()]):
            remove(path)


def check_removable(path: Path) -> None:
    """Delete nothing; raise OSError if `remove` could not delete all of `path`, InputError for a link to nowhere."""
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path}: a link to {os.readlink(path)}, which is not there; bring its disk back, or delete the link if nothing "
            "behind it is needed"
        )
    for folder, _, _ in os.walk(path, onerror=_raise) if path.is_dir() else ():
        require_writable(Path(folder))


def require_writable(folder: Path) -> None:
    """Raise OSError unless entries of the folder can be made and deleted."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "not writable for this user, or mounted read-only", str(folder))


def remove(path: Path, keep_link: bool = False, follow: bool = False) -> None:
    """Delete a file or a folder; what is not there is no error.

    Of a link the link is deleted, not what it leads to, unless `follow` or `keep_link`: then its content is on another disk,
    as a mount point's, and is deleted there. The link is deleted too, unless it is to be kept for what comes next. Raises
    OSError when something cannot be deleted.
    """
    if not path.is_dir() or (path.is_symlink() and not (follow or keep_link)):
        path.unlink(missing_ok=True)
    elif not path.is_symlink() and not os.path.ismount(path):
        shutil.rmtree(path)
    else:
        for child in path.iterdir():  # a link in there is deleted, not followed
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        if path.is_symlink() and not keep_link:
            with contextlib.suppress(OSError):
                path.resolve().rmdir()
            path.unlink()


def _raise(error: OSError) -> None:
    raise error


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` as JSON, atomically; `indent` None: in one line."""
    with written_atomically(path) as aside:
        aside.write_text(json.dumps(content, indent=indent, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def check_same_measures(
    output: str | None, of: Mapping[str, Any], option: str = "--output", without: Collection[str] = ()
) -> None:
    """Raise InputError when the JSON file `output`, which `option` names, exists and is not about the same things as `of`,
    or holds figures, named in `without`, that would not be written again.

    So figures of another model, and other people's files, are not overwritten. Nor may its folder be missing.
    """
    if output is None:
        return
    require_folder_of(option, Path(output))
    if not os.path.lexists(output):
        return
    try:
        found = json.loads(Path(output).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in of.items()):
        what = ", ".join(f"{key} {value}" for key, value in of.items() if value is not None)
        raise InputError(f"{option} {output}: there already, and not of {what}; give another file, or remove it")
    for figures in (name for name in without if name in found):
        raise InputError(f"{option} {output}: has figures of {figures} too, which would be lost; give another file")
