"""One seed of a fine-tuning experiment: transformers' Trainer, with our learning rates, our choice of the best epoch and
restart.

1. The head is drawn from the seed, as are the order of the examples and dropout.
2. After each epoch (or `evaluate_every` updates) the validation languages are scored by the task itself; the mean of its
   first metric over them chooses the checkpoint.
3. The best one answers the test languages. Predictions, then the model, then `result.json` are written, each whole or
   not at all; a seed with `result.json` is done. One without goes on from its newest whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import set_seed

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, remove, write_json, written_atomically
from ernie_m.downstream.submission import write_submission
from ernie_m.downstream.task import Hyperparameters, Scored, Setup, Task
from ernie_m.downstream.task_files import TaskData
from ernie_m.downstream.training import TaskTrainer, TrainerOptions, ranks, training_arguments
from ernie_m.interop.encoder import OpenEncoder

RESULT_FILE = "result.json"
MODEL_FOLDER = "model"


def run_seed(
    task: Task[Any],
    data: TaskData,
    setup: Setup,
    encoder: OpenEncoder,
    folder: Path,
    seed: int,
    trainer_options: TrainerOptions,
    note: str = "",
) -> dict[str, Any]:
    """Train and score one seed in `folder`, or read its result if it is done; all ranks call it.

    Returns the content of result.json: `seed`, `validation` (best mean of the first metric, percent), `test` (language ->
    metric -> percent), `best_step`, `best_epoch`, `num_updates`, `seconds`.
    """
    done = folder / RESULT_FILE
    if done.is_file():
        return _read(done, seed, task, data)
    rank, _ = ranks()
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(seed)  # before the head is drawn
    trainer = TaskTrainer(
        task, data, setup, encoder, training_arguments(task, setup.hyperparameters, folder, seed, trainer_options), note
    )
    checkpoint = newest_whole_checkpoint(folder)
    if checkpoint and rank == 0:
        print(f"seed {seed}: goes on from {checkpoint.name}", flush=True)
    elif rank == 0 and any(folder.glob("checkpoint-*")):
        print(f"seed {seed}: begins anew, no checkpoint is whole and still where it was written", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    tested = data.predicted
    test = trainer.scores(tested, {k: task.features(e, setup, False) for k, e in tested.items()}, "test")
    state = trainer.state
    result = {
        "seed": seed,
        "validation": state.best_metric,
        "test": {language: scored.metrics for language, scored in test.items() if scored.metrics},
        "best_step": state.best_global_step,
        "best_epoch": round((state.best_global_step or 0) * state.num_train_epochs / max(1, state.max_steps), 3),
        "num_updates": state.max_steps,
        "seconds": round(time.monotonic() - started, 1),
    }
    if trainer_options.keep_models:
        trainer.save_whole(folder / MODEL_FOLDER)
    if rank == 0:
        write_predictions(folder, task, test)
        write_json(done, result)
        for path in folder.glob("checkpoint-*"):
            remove(path)
    return result


def _read(path: Path, seed: int, task: Task[Any], data: TaskData) -> dict[str, Any]:
    try:
        result = dict(read_json(path))
        scores = [result["test"][language][metric] for language in data.test for metric in task.metrics]
        is_ours = result["seed"] == seed and result["test"].keys() == data.test.keys()
        if not is_ours or not all(isinstance(number, float | int) for number in (result["validation"], *scores)):
            raise ValueError("of another seed, or without its scores")
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise InputError(
            f"{path}: not the scores of seed {seed} that were written there; remove it, and this seed is trained again"
        ) from None
    return result


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of the Trainer: trainer_state.json, written last, is there, and no file is cut."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        with contextlib.suppress(OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, ValueError):
            state = read_json(path / "trainer_state.json")
            best = state["best_model_checkpoint"]
            if state["global_step"] == int(path.name.rpartition("-")[2]) and (best is None or Path(best).is_dir()):
                whole.append((int(state["global_step"]), path))
    return next((path for _, path in sorted(whole, reverse=True) if not any(map(_is_cut, path.rglob("*")))), None)


def _is_cut(path: Path) -> bool:
    """Whether the end of a file of tensors is missing, as on a disk that was full or lost its power."""
    if path.suffix in (".pt", ".pth", ".bin"):
        return not zipfile.is_zipfile(path)  # its directory stands at the end
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return True
    return False


def num_updates(num_examples: int, hyperparameters: Hyperparameters) -> int:
    """Updates of one seed."""
    return math.ceil(num_examples / hyperparameters.batch_size) * hyperparameters.epochs


def write_predictions(to: Path, task: Task[Any], test: Mapping[str, Scored]) -> None:
    """`to`/predictions/LANGUAGE.jsonl with a line an example, and XTREME's files; each whole or not at all."""
    (to / "predictions").mkdir(exist_ok=True)
    for language, scored in test.items():
        with written_atomically(to / "predictions" / f"{language}.jsonl") as aside:
            lines = (json.dumps(prediction, ensure_ascii=False) for prediction in scored.predictions)
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_submission(to, task.xtreme, {language: scored.predictions for language, scored in test.items()})
