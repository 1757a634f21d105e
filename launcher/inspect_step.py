"""Show the data of one step of a run, e.g. of a loss spike.

    python launcher/inspect_step.py --run RUN --step 1200
    python launcher/inspect_step.py --run RUN --step 1200 --objective CAMLM --decode

A line a row: its id (objective/stream/visit, as spikes are logged), shard, and lines of the shard from 0, a range a
document. Works on any machine that has the run's folder and its data, also while the run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

try:
    from ernie_m.command_line import run as run_command
    from ernie_m.console import InputError
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if TYPE_CHECKING:
    from ernie_m.dataloader import PretrainingData

CONFIG_FILE = "config.yaml"  # ernie_m.run_folder's, which takes seconds to import


def inspect_step(
    *,
    run: str,
    step: int,
    objective: str | None = None,
    decode: bool = False,
    data: str | None = None,
    output: str | None = None,
) -> None:
    """Print which rows a step of a run is made of, and their text; leave such steps out with --skip_steps A:B.

    Args:
        run: run folder of launcher/pretrain.py
        step: the step as spikes name it, from 0: line "step": 1201 of metrics.jsonl is step 1200
        objective: only rows of this one, e.g. CAMLM; default: all
        decode: also print the text of every row, a document a line, a line a language
        data: the run's data folder, if it lies elsewhere now
        output: also write the rows to this JSON file
    """
    from ernie_m.files import write_json
    from ernie_m.skip_steps import SkipSteps
    from ernie_m.vocabulary import Vocabulary

    opened = open_data(Path(run), Path(data) if data else None)
    if not isinstance(step, int) or not 0 <= step < opened.schedule.num_steps:
        raise InputError(f"--step {step}: expected 0 .. {opened.schedule.num_steps - 1}, the steps of {run}")
    if objective not in (None, *opened.schedule.objectives):
        raise InputError(f"--objective {objective}: expected one of {', '.join(opened.schedule.objectives)}")
    rows = [row for row in opened.describe_step(step) if objective in (None, row["objective"])]
    state = "skipped in this run" if step in SkipSteps.read(Path(run)) else f"--skip_steps {step}:{step + 1} leaves it out"
    print(f"step {step} of {run}: {len(rows)} rows; {state}")
    vocabulary = Vocabulary(opened.folder.tokenizer_path) if decode else None
    for row in rows:
        ranges = " ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in row["lines"])
        print(f"{row['id']}  {row['shard']}  lines {ranges}")
        if vocabulary is None:
            continue
        for sentences in opened.sentences(row["objective"], row["draw"]):
            for language, ids in zip(row["stream"].split("-"), sentences, strict=True):
                print(f"    {language}: {vocabulary.decode(ids.tolist())}")
    if output:
        write_json(Path(output), {"run": run, "step": step, "rows": rows})


def open_data(run: Path, data: Path | None) -> PretrainingData:
    """The data order of a run, from its saved configuration; raises InputError unless the data is the run's own."""
    from ernie_m.config import build, read_yaml
    from ernie_m.corpus import MANIFEST_FILE, CorpusFolder
    from ernie_m.dataloader import DataConfig, PretrainingData, Schedule, StageConfig
    from ernie_m.files import sha256_of

    path = run / CONFIG_FILE
    if not path.is_file() or "data_identity" not in (saved := read_yaml(path)):
        raise InputError(f"{run}: not a run folder ({CONFIG_FILE} of ours is missing); expected the --run of a pre-training")
    folder = data or Path(saved["data_identity"]["folder"])
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(f"{folder}: no {MANIFEST_FILE} there; name the run's data folder with --data")
    if sha256_of(folder / MANIFEST_FILE) != saved["data_identity"]["manifest_sha256"]:
        raise InputError(f"{folder / MANIFEST_FILE}: not the data this run was started on; name its folder with --data")
    stages = tuple(build(StageConfig, stage, str(path), f"stages[{i}].") for i, stage in enumerate(saved["stages"]))
    config = build(DataConfig, saved["data"], str(path), "data.")
    return PretrainingData(CorpusFolder(folder), config, Schedule(stages, saved["batch"]["rows_per_step"]), saved["seed"])


if __name__ == "__main__":
    run_command(inspect_step, "launcher/inspect_step.py")
