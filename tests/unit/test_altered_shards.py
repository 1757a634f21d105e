"""A shard that was altered or cut behind our back: one line that names the file and the way out, never a crash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder, Shard
from ernie_m.models.gain import held_out_pairs
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.schedule import Schedule, StageConfig

STAGE = StageConfig(steps=32, rows={"MMLM": 1, "CAMLM": 1, "BTMLM": 1})
ROWS = 24


@pytest.fixture
def copy(corpus_folder: CorpusFolder, tmp_path: Path) -> Path:
    shutil.copytree(corpus_folder.folder, tmp_path / "data")
    return tmp_path / "data"


def read_all(folder: Path) -> None:
    """Some steps of training, and the held-out pairs."""
    opened = CorpusFolder(folder)
    data = PretrainingData(opened, DataConfig(sequence_length=512), Schedule((STAGE,), ROWS), 0)
    for step in range(STAGE.steps):
        data.step(step, 0, 1, ROWS)
    held_out_pairs(opened, 100)


def alter(shard: Shard, buffer: np.ndarray, index: int, number: int) -> None:
    """Write another number into the shard's file, in place of the `index`-th of a mapped column."""
    content = shard.path.read_bytes()
    place = content.find(buffer.tobytes())
    assert place > 0
    with shard.path.open("r+b") as file:
        file.seek(place + 4 * index)
        file.write(np.int32(number).tobytes())
    assert shard.path.stat().st_size == shard.entry.bytes


@pytest.mark.parametrize("number", [-1, 0, 2, 29_999, 30_000, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("kind", ["monolingual", "parallel", "held out"])
def test_an_id_that_no_text_has_is_named_with_file_and_row(copy: Path, number: int, kind: str) -> None:
    folder = CorpusFolder(copy)
    shard = {
        "monolingual": folder.monolingual()[2].shards[0],
        "parallel": folder.parallel()[1].shards[0],
        "held out": folder.parallel("held_out")[0].shards[0],
    }[kind]
    row = 7
    alter(shard, shard.values[-1], int(shard.offsets[-1][row]), number)
    with pytest.raises(InputError) as caught:
        read_all(copy)
    message = str(caught.value)
    assert message.startswith(f"{shard.path}: row {row} of column ")
    assert f"holds the id {number}, expected 3 to 29998" in message
    assert f"python -m data_prep verify --data {copy}" in message
    assert "\n" not in message


@pytest.mark.parametrize("number", [-5, 2**31 - 1, 0])
@pytest.mark.parametrize("row", [0, 9, -1])
@pytest.mark.parametrize("column", [0, -1])
def test_altered_lengths_are_named(copy: Path, row: int, number: int, column: int) -> None:
    shard = CorpusFolder(copy).parallel()[1].shards[0]
    offsets = shard.offsets[column]
    if int(offsets[row]) == number:
        pytest.skip("nothing altered")
    alter(shard, offsets, row % len(offsets), number)
    with pytest.raises(InputError, match=rf"{shard.path}: .*data_prep verify --data {copy}"):
        read_all(copy)


def complaint(folder: Path) -> str:
    """What reading the folder ends with; '' when it can be read."""
    try:
        read_all(folder)
    except InputError as error:
        return str(error)
    return ""


def test_whatever_byte_is_flipped_nothing_but_a_line_that_names_the_file_comes_of_it(copy: Path) -> None:
    rng, named = np.random.default_rng(0), 0
    path = CorpusFolder(copy).parallel()[1].shards[0].path
    content = path.read_bytes()
    for _ in range(16):
        flipped = bytearray(content)
        for place in rng.integers(0, len(content), int(rng.integers(1, 40))).tolist():
            flipped[place] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        message = complaint(copy)
        assert message == "" or message.startswith(f"{path}: "), message
        assert "\n" not in message
        named += message != ""
    assert named > 8


READER = """
import sys
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.schedule import Schedule, StageConfig
stage = StageConfig(steps=10**6, rows={"CAMLM": 1, "MMLM": 1})
data = PretrainingData(CorpusFolder(sys.argv[1]), DataConfig(sequence_length=64), Schedule((stage,), 8), 0)
for step in range(20):
    data.step(step, 0, 1, 8)
print("reading", flush=True)
sys.stdin.readline()
try:
    for step in range(10**6):
        data.step(step, 0, 1, 8)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("harm", ["cut", "emptied", "gone"])
def test_a_shard_cut_under_a_running_process_is_named(copy: Path, harm: str) -> None:
    """Without a look at its size the next touch of the mapped file is SIGBUS: the process is gone without a word."""
    path = CorpusFolder(copy).parallel()[0].shards[0].path
    command = [sys.executable, "-c", READER, str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        if harm == "gone":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(4096 if harm == "cut" else 0)
        output, _ = process.communicate("\n", timeout=120)
    assert process.returncode == 0, f"ended by signal {-process.returncode}"
    assert output.startswith(f"{path}: ")
    assert output.count("\n") == 1
