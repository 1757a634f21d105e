"""Files made to fill a memory or to take for ever, read as a build reads them: peak memory, and time at two sizes.

    python -m benchmarks.bombs [--mb 64] [--work /tmp/bombs]

Each bomb is made at --mb MiB of content and at twice as many, and read in a process of its own: cut into chunks of 16 MiB,
each of which is parsed and dropped. Peak memory is what the process has at most, less what it had before the first byte;
seconds are of its processor, so that other work on the machine does not count. Targets: peak at most three chunks; twice the
bomb, twice the time. Bombs that are refused by name are read until then. Prints a table; writes nothing outside --work.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet
import zstandard

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.records import no_count
from ernie_m.base.console import InputError
from ernie_m.base.host_memory import return_large_blocks
from ernie_m.base.table import table

MIB = 1 << 20
LENGTH_BYTES = 4  # in front of a text in Parquet
ONE_PAGE: dict[str, Any] = {"data_page_size": 1 << 30, "write_batch_size": 1 << 30}
LINE = b"A line of text that is as long as many a sentence is, and is said again and again.\n"
UNIT = b'<tu><tuv xml:lang="en"><seg>One.</seg></tuv><tuv xml:lang="fr"><seg>Un.</seg></tuv></tu>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path("/tmp/bombs"))
    parser.add_argument("--only", default="", help="bombs whose name holds this")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)  # a reading, in its own process
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(read(BOMBS[arguments.inside[0]][0], Path(arguments.inside[1]))))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in (name for name in BOMBS if arguments.only in name):
        small, large = (measured(name, arguments.work, size) for size in (arguments.mb, 2 * arguments.mb))
        peak = max(small["peak"], large["peak"]) / readers.CHUNK_BYTES
        ratio = large["seconds"] / max(small["seconds"], 0.01)
        refusal = " ".join(large["refused"].split("; ")[0].split()[1:])[:60] or "read whole"
        cells = [f"{large['bytes']:,}", f"{peak:.2f}", f"{small['seconds']:.2f}", f"{large['seconds']:.2f}", f"{ratio:.2f}"]
        rows.append([name, *cells, refusal])
        print(f"{name}: {rows[-1][1:]}", file=sys.stderr, flush=True)
    size = f"{arguments.mb} MiB"
    head = ["bomb", f"bytes at 2 x {size}", "peak, chunks", f"s, {size}", f"s, 2 x {size}", "ratio", "how it ends"]
    print(table(head, rows))


def measured(name: str, work: Path, mebibytes: int) -> dict[str, Any]:
    """A bomb of so many MiB of content: its bytes on the disk, peak memory, processor seconds, the refusal or ""."""
    file_name, make = BOMBS[name][0], BOMBS[name][1]
    path = work / str(mebibytes) / file_name
    path.parent.mkdir(exist_ok=True)
    make(path, mebibytes * MIB)
    command = [sys.executable, "-m", "benchmarks.bombs", "--inside", name, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    size = path.stat().st_size
    path.unlink()
    return {**json.loads(result.stdout), "bytes": size}


def read(file_name: str, path: Path) -> dict[str, Any]:
    """Read a file as a build does."""
    form, languages = ("tmx", ("en", "fr")) if ".tmx" in file_name else ("cc100", ("en",))
    if ".parquet" in file_name:
        form = "parquet"
    if ".tar" in file_name or ".pair." in file_name:
        form, languages = "moses", ("en", "fr")
    corpus = Corpus("bomb", form, languages, (path,))
    return_large_blocks()  # as a build does
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started, refused = peak_memory(), time.process_time(), ""
    try:
        for chunk in readers.chunks(corpus, readers.CHUNK_BYTES, no_count):
            for _ in readers.parse(corpus, chunk):
                pass
            del chunk
    except InputError as error:
        refused = str(error)
    return {"peak": peak_memory() - before, "seconds": time.process_time() - started, "refused": refused}


def peak_memory() -> int:
    """Resident memory of this process at its most, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# -- bombs -------------------------------------------------------------------------------------------------------------


def repeated(file: IO[bytes], text: bytes, size: int) -> None:
    """Write `text` again and again, `size` bytes in all or a little more."""
    piece = text * max(1, MIB // len(text))
    for _ in range(-(-size // len(piece))):
        file.write(piece)


OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": partial(gzip.GzipFile, mode="wb", compresslevel=6),
    ".xz": partial(lzma.LZMAFile, mode="wb", preset=1),
    ".zst": partial(zstandard.open, mode="wb"),
    ".bz2": partial(bz2.BZ2File, mode="wb", compresslevel=1),
}


def packed(text: bytes, before: bytes = b"", after: bytes = b"") -> Callable[[Path, int], None]:
    """A file with `text` again and again, packed as its name says."""

    def make(path: Path, size: int) -> None:
        with OPENERS.get(path.suffix, partial(open, mode="wb"))(path) as file:
            file.write(before)
            repeated(file, text, size)
            file.write(after)

    return make


def zipped(*texts: tuple[str, bytes]) -> Callable[[Path, int], None]:
    """A zip with such members."""

    def make(path: Path, size: int) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts:
                with archive.open(name, "w", force_zip64=True) as file:
                    repeated(file, text, size)

    return make


def with_lines(name: str, short: bytes, long: bytes) -> Callable[[Path, int], None]:
    """A zip of two texts of as many lines: short ones beside long ones."""

    def make(path: Path, size: int) -> None:
        count = size // len(long)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for language, line in (("en", short), ("fr", long)):
                with archive.open(f"{name}.{language}", "w", force_zip64=True) as file:
                    for _ in range(count // 1000):
                        file.write(line * 1000)

    return make


def texts(length: int, most: int, **options: Any) -> Callable[[Path, int], None]:
    """A Parquet file of texts of that length, row groups of `most` bytes."""

    def make(path: Path, size: int) -> None:
        table = pa.table({"text": pa.array(["x" * length] * (size // max(length, LENGTH_BYTES)))})
        options.setdefault("use_dictionary", False)
        pyarrow.parquet.write_table(
            table, path, row_group_size=most // (length + LENGTH_BYTES), compression="zstd", **options
        )

    return make


def of_dictionary(count: int) -> Callable[[Path, int], None]:
    """A Parquet file whose rows name `count` texts of a MiB of a dictionary."""

    def make(path: Path, size: int) -> None:
        places = pa.array([row % count for row in range(size // MIB)], pa.int32())
        table = pa.table(
            {"text": pa.DictionaryArray.from_arrays(places, pa.array([str(n) + "x" * MIB for n in range(count)]))}
        )
        pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=1 << 30, store_schema=False)

    return make


def lists(path: Path, size: int) -> None:
    """A Parquet file whose texts stand in lists."""
    pyarrow.parquet.write_table(pa.table({"text": [["x" * MIB] * (size // MIB)]}), path)


def many_columns(path: Path, size: int) -> None:
    """A Parquet file of a footer of `size`, or 4 MiB if that is less: columns without end."""
    column = b"\x15\x0c\x25\x02\x18\x04name\x25\x00\x00"
    count = min(size, (4 << 20) - 100) // len(column)
    root = b"\x48\x01s\x15" + varint(2 * count) + b"\x00"
    footer = b"\x15\x02\x19\xfc" + varint(count + 1) + root + column * count + b"\x16\x00\x19\x0c\x00"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def long_header(kind: bytes) -> Callable[[Path, int], None]:
    """A tar whose first header is as long as the bomb."""

    def make(path: Path, size: int) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, size
        with gzip.open(path, "wb", 6) as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            repeated(file, b"1", size)

    return make


def many_members(path: Path, size: int) -> None:
    """A tar of empty members."""
    with gzip.open(path, "wb", 6) as file:
        repeated(file, tarfile.TarInfo("a/name.xx").tobuf(tarfile.GNU_FORMAT), size)
        for language in ("en", "fr"):
            info = tarfile.TarInfo(f"a.{language}")
            info.size = 2
            file.write(info.tobuf(tarfile.GNU_FORMAT) + b"a\n" + bytes(510))
        file.write(bytes(1024))


def many_names(path: Path, size: int) -> None:
    """A zip of empty members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(size // 400):
            archive.writestr(f"{number:0150d}", b"")
    path.write_bytes(buffer.getvalue())


def tmx(text: bytes, before: bytes = b"<tu>", after: bytes = b"</tu>") -> Callable[[Path, int], None]:
    return packed(text, b"<tmx><body>" + UNIT + before, after + UNIT + b"</body></tmx>\n")


SEGMENT = (b'<tu><tuv xml:lang="en"><seg>', b'</seg></tuv><tuv xml:lang="fr"><seg>Un.</seg></tuv></tu>')
BOMBS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "lines, plain": ("a.txt", packed(LINE)),
    "lines, xz": ("a.txt.xz", packed(LINE)),
    "an endless line, gz": ("a.txt.gz", packed(b"x")),
    "an endless line, bz2": ("a.txt.bz2", packed(b"x")),
    "an endless line, xz": ("a.txt.xz", packed(b"x")),
    "an endless line, zst": ("a.txt.zst", packed(b"x")),
    "an endless line, zip": ("a.zip", zipped(("a.txt", b"x"))),
    "empty lines, bz2": ("a.txt.bz2", packed(b"\n")),
    "two letters a line, xz": ("a.txt.xz", packed(b"ab\n")),
    "empty lines beside long ones, zip": ("a.pair.zip", with_lines("a", b"\n", b"x" * 999 + b"\n")),
    "a long name, tar.gz": ("a.tar.gz", long_header(tarfile.GNUTYPE_LONGNAME)),
    "long attributes, tar.gz": ("a.tar.gz", long_header(tarfile.XHDTYPE)),
    "empty members, tar.gz": ("a.tar.gz", many_members),
    "empty members, zip": ("a.zip", many_names),
    "long pages, Parquet": ("a.parquet", texts(1000, 23 * MIB, **ONE_PAGE)),
    "long pages of long texts, Parquet": ("a.parquet", texts(MIB - 20, 23 * MIB, **ONE_PAGE)),
    "a large row group, Parquet": ("a.parquet", texts(1000, 1 << 40)),
    "empty texts, Parquet": ("a.parquet", texts(0, 1 << 40)),
    "one text again and again, Parquet": ("a.parquet", of_dictionary(1)),
    "a long dictionary, Parquet": ("a.parquet", of_dictionary(4)),
    "a page beyond the limit, Parquet": ("a.parquet", texts(MIB - 20, 1 << 40, **ONE_PAGE)),
    "texts in lists, Parquet": ("a.parquet", lists),
    "many columns, Parquet": ("a.parquet", many_columns),
    "units, TMX": ("a.tmx", tmx(UNIT, b"", b"")),
    "a long segment, TMX": ("a.tmx.gz", tmx(b"text ", *SEGMENT)),
    "a segment of tags, TMX": ("a.tmx.gz", tmx(b"x<ph/>", *SEGMENT)),
    "notes, TMX": ("a.tmx.gz", tmx(b"<note>n</note>")),
    "a long attribute, TMX": ("a.tmx.gz", tmx(b"x", b'<tu note="', b'"></tu>')),
    "a long comment, TMX": ("a.tmx.gz", tmx(b"x", b"<!--", b"-->")),
    "levels, TMX": ("a.tmx.gz", tmx(b"<a>")),
    "empty units, TMX": ("a.tmx.gz", tmx(b"<tu/>", b"", b"")),
}


if __name__ == "__main__":
    main()
