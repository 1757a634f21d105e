"""Arrow IPC files of one record batch, mapped. The size is checked first: a read behind the file's end kills the process."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of

REBUILD = "rebuild the data"


def check_size(path: str, size: int, remedy: str = REBUILD) -> None:
    """Raise InputError unless the file is there and as long as the manifest says."""
    try:
        found = os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: missing, though the manifest names it; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a readable file; look at its disk") from None
    if found != size:
        raise InputError(f"{path}: {found} bytes, the manifest says {size}; {remedy}")


def check_whole(path: Path, size: int, sha256: str, remedy: str = REBUILD) -> None:
    """Raise InputError unless the file has the manifest's size and hash. It is read, not mapped."""
    check_size(str(path), size, remedy)
    if sha256_of(path) != sha256:
        raise InputError(f"{path}: SHA-256 differs from the manifest's; {remedy}")


def mapped_batch(path: Path, size: int, remedy: str = REBUILD) -> tuple[pa.Schema, pa.RecordBatch]:
    """Schema and the one record batch of a file of `size` bytes, mapped. Raises InputError for anything else."""
    check_size(str(path), size, remedy)
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        schema, num_batches = reader.schema, reader.num_record_batches
        batch = reader.get_batch(0) if num_batches == 1 else None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: not a readable Arrow file ({' '.join(str(error).split())}); {remedy}") from None
    if batch is None:
        raise InputError(f"{path}: {num_batches} record batches, expected 1; {remedy}")
    return schema, batch
