"""All seeds of one task on one encoder: check, train, put together. The same call, given again, goes on.

In the folder: `settings.json` (what the scores depend on; other settings are refused there), `seed_K/` with `result.json`,
`predictions/LANGUAGE.jsonl` and `model/`, then `results.json` and `scores.png`.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ernie_m.config import build, differing_keys, merge_overrides, to_mapping
from ernie_m.console import Choice, InputError
from ernie_m.deepspeed_adapter import prepare
from ernie_m.downstream import encoders, files, paper, report
from ernie_m.downstream.seed import num_updates, run_seed
from ernie_m.downstream.task import Hyperparameters, Setup, Task
from ernie_m.downstream.training import Machinery, batching, ranks
from ernie_m.downstream.unknown import tell_unknown
from ernie_m.engine import Precision, choose_precision
from ernie_m.files import sha256_of, write_json
from ernie_m.ranks import this_device

SETTINGS_FILE, RESULTS_FILE, PICTURE_FILE = "settings.json", "results.json", "scores.png"
NOT_SETTINGS = ("micro_batch",)  # hyperparameters that change no score


@dataclass(frozen=True)
class Experiment:
    """What the command line says."""

    task: Task[Any]
    setting: str
    encoder: Path
    """Folder of any Hugging Face encoder."""
    files: files.FileOptions
    to: Path
    """Folder for everything that comes of it."""
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    """Hyperparameters as key=value, instead of the paper's."""
    precision: str = "fp32"
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed configuration of transformers' integration."""
    keep_models: bool = True


def run(experiment: Experiment) -> dict[str, Any]:
    """Run the seeds that are not done yet, then print and write the scores of all; returns results.json's content.

    Raises InputError for an unknown setting, a folder of other settings, and everything wrong with files and encoder.
    """
    if importlib.util.find_spec("accelerate") is None:  # transformers' Trainer does without until it starts
        raise InputError("fine-tuning needs accelerate, which is not installed; pip install 'ernie-m[finetune]'")
    prepare()  # the Trainer imports DeepSpeed where it is installed, used or not
    task, rank = experiment.task, ranks()[0]
    if experiment.setting not in task.settings:
        raise InputError(f"--setting {experiment.setting}: expected one of {', '.join(task.settings)}")
    config = encoders.read_config(experiment.encoder)
    size = encoders.size_of(config)
    hyperparameters = hyperparameters_of(task, experiment.setting, size, experiment.overrides)
    batching(hyperparameters, ranks()[1])
    data = files.load(task, experiment.setting, experiment.files)
    setup = _setup(experiment, config, data, hyperparameters)
    for examples in (data.validation, data.test):
        task.check(examples, setup)
    machinery = Machinery(experiment.precision, experiment.deepspeed, experiment.keep_models)
    updates = num_updates(len(data.train), hyperparameters)
    if hyperparameters.evaluate_every > updates:
        raise InputError(
            f"evaluate_every: {hyperparameters.evaluate_every}; expected at most {updates}, the updates of a seed"
        )
    if rank == 0:
        experiment.to.mkdir(parents=True, exist_ok=True)
        settings = _settings(experiment, hyperparameters, machinery, data)
        _keep_settings(experiment.to / SETTINGS_FILE, settings)
        _describe(experiment, size, data, setup, updates)
        tell_unknown(task, data, setup)
    results = [
        run_seed(
            task,
            data,
            setup,
            experiment.encoder,
            experiment.to / f"seed_{seed}",
            seed,
            machinery,
            f"{task.name}, seed {seed} ({number} of {len(experiment.seeds)}): ",
        )
        for number, seed in enumerate(experiment.seeds, start=1)
    ]
    return _finish(experiment, size, data, results) if rank == 0 else {}


def hyperparameters_of(task: Task[Any], setting: str, size: encoders.Size, overrides: Sequence[str]) -> Hyperparameters:
    """The paper's, with what the user sets otherwise; raises InputError for an unknown key or an unfit value."""
    defaults = task.defaults(setting, size)
    return build(type(defaults), merge_overrides(to_mapping(defaults), overrides), "hyperparameters")


def _setup(experiment: Experiment, config: Any, data: files.TaskData, hyperparameters: Hyperparameters) -> Setup:
    tokenizer = encoders.load_tokenizer(experiment.encoder)
    longest = encoders.longest_input(config, tokenizer)
    if longest < hyperparameters.max_length:
        if ranks()[0] == 0:
            reason = f"the encoder has room for no more; asked for {hyperparameters.max_length}"
            print(Choice("max_length", str(longest), reason), flush=True)
        hyperparameters = replace(hyperparameters, max_length=longest)
    labels = encoders.class_order(config, experiment.task.labels(data.train))
    return Setup(tokenizer, hyperparameters, labels, experiment.setting)


def chosen_precision(asked: str) -> str:
    """fp32, bf16 or fp16 by what is asked and what the device can; raises InputError for anything else."""
    if asked not in typing.get_args(Precision):
        raise InputError(f"--precision {asked}: expected {', '.join(typing.get_args(Precision))}")
    device = this_device()
    choice = choose_precision(typing.cast(Precision, asked), device)
    if ranks()[0] == 0:
        print(choice, flush=True)
    return choice.value


def _settings(
    experiment: Experiment, hyperparameters: Hyperparameters, machinery: Machinery, data: files.TaskData
) -> dict[str, Any]:
    """All that the scores of a seed depend on; files by content, since they may move."""
    weights = sorted([*experiment.encoder.glob("*.safetensors"), *experiment.encoder.glob("*.bin")])
    shaping = {key: value for key, value in to_mapping(hyperparameters).items() if key not in NOT_SETTINGS}
    return {
        "task": experiment.task.name,
        "setting": experiment.setting,
        "hyperparameters": shaping,
        "precision": machinery.precision,
        "zero_stage": (experiment.deepspeed or {}).get("zero_optimization", {}).get("stage"),
        "from_dev": experiment.files.from_dev,
        "encoder": {path.name: sha256_of(path) for path in (experiment.encoder / "config.json", *weights)},
        "data": {part: {path.name: sha256_of(path) for path in paths} for part, paths in data.files.items()},
    }


def _keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if path.is_file():
        try:
            differing = differing_keys(json.loads(path.read_text(encoding="utf-8")), settings)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            raise InputError(f"{path}: not the JSON that was written there; give another folder with --to") from None
        if differing:
            raise InputError(
                f"{path.parent} holds seeds of other settings ({'; '.join(differing[:3])}); expected the same, or give "
                "another folder with --to"
            )
    write_json(path, settings)


def _describe(experiment: Experiment, size: str, data: files.TaskData, setup: Setup, updates: int) -> None:
    task, hyperparameters = experiment.task, setup.hyperparameters
    shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in to_mapping(hyperparameters).items())
    trained = ", ".join(f"{language} {count:,}" for language, count in data.num_train.items())
    print(f"{task.name}, {experiment.setting}, {experiment.encoder} (as the paper's {size}): {shown}")
    print(f"train: {trained}; chosen on: {', '.join(data.validation)}; tested on: {', '.join(data.test)}")
    print(f"{len(experiment.seeds)} seeds of {updates:,} updates", flush=True)


def _finish(
    experiment: Experiment, size: encoders.Size, data: files.TaskData, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    task = experiment.task
    trivial = statistics.fmean(task.trivial_score(examples) for examples in data.validation.values())
    summary = report.summarise(results, task.metrics, trivial, sum(map(len, data.validation.values())))
    tested = {task.data_set(path) for path in data.files["test"]}
    if experiment.files.from_dev:
        tested = {f"parts of {name}" for name in tested}
    place = (task.name, experiment.setting, size, tested)
    row, absence = paper.row_of(*place), paper.absence(*place)
    cut = "; train, validation and test cut out of dev files" if experiment.files.from_dev else ""
    protocol = (
        f"{task.protocol}; best checkpoint by validation on {', '.join(data.validation)}; "
        f"mean ± sd of {len(results)} seeds{cut}"
    )
    content = {
        "task": task.name,
        "setting": experiment.setting,
        "encoder": str(experiment.encoder),
        "protocol": protocol,
        **report.as_json(summary, row),
        "seeds": list(results),
    }
    write_json(experiment.to / RESULTS_FILE, content)
    title = f"{task.name}, {experiment.setting}: {experiment.encoder.name}"
    report.draw(summary, results, row, title, experiment.to / PICTURE_FILE)
    print(f"\n{report.as_table(summary, results, row)}\n")
    for line in (*report.remarks(summary, results, row), *filter(None, [absence]), f"protocol: {protocol}"):
        print(line)
    print(f"written: {experiment.to / RESULTS_FILE}, {experiment.to / PICTURE_FILE}", flush=True)
    return content
