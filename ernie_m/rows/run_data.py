"""The data order of a run, from its saved configuration: which rows each step is made of. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ernie_m.base.config import build, read_saved
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import CONFIG_FILE, DATA_IDENTITY
from ernie_m.corpus.folder import MANIFEST_FILE, CorpusFolder
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.rows.weights import ObjectiveWeights

NEEDED = ("stages", "seed", "data", "batch.rows_per_step", f"{DATA_IDENTITY}.folder", f"{DATA_IDENTITY}.manifest_sha256")
"""Of a run's configuration."""


def open_data(run: Path, data: Path | None) -> PretrainingData:
    """The data order of the run in folder `run`; `data`: its data folder, if it was moved.

    Raises InputError if `run` is not a run folder, or if the data is not what the run was started on.
    """
    saved, path = read_saved(run, *NEEDED), run / CONFIG_FILE
    folder = data or Path(saved[DATA_IDENTITY]["folder"])
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(f"{folder}: no {MANIFEST_FILE} there; name the run's data folder with --data")
    if sha256_of(folder / MANIFEST_FILE) != saved[DATA_IDENTITY]["manifest_sha256"]:
        raise InputError(f"{folder / MANIFEST_FILE}: not the data this run was started on; name its folder with --data")
    stages = tuple(build(StageConfig, stage, str(path), f"stages[{i}].") for i, stage in enumerate(saved["stages"]))
    config = build(DataConfig, saved["data"], str(path), "data.")
    drawn = ObjectiveWeights(saved.get("objective_weights", {})).drawn(stages)
    return PretrainingData(CorpusFolder(folder), config, Schedule(drawn, saved["batch"]["rows_per_step"]), saved["seed"])
