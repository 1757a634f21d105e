"""All seeds of one task on one encoder, or its own head as it is: check, train, summarise.

The same command again goes on where it stopped.

In the folder: `settings.json` (what the scores depend on; `settings.claim` refuses others there), `seed_K/` with
`result.json`, `predictions/LANGUAGE.jsonl`, `xtreme/TASK/test-LL.*` and `model/`, then `results.json` and `scores.png`.
"""

from __future__ import annotations

import importlib.util
import statistics
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ernie_m.base.config import build, merge_overrides, to_mapping
from ernie_m.base.console import Choice, InputError
from ernie_m.base.files import write_json
from ernie_m.downstream import encoders, paper, report, settings, task_files
from ernie_m.downstream.announce import announce
from ernie_m.downstream.scoring import doubt, own_head, score_given
from ernie_m.downstream.seed import num_updates, run_seed
from ernie_m.downstream.settings import PICTURE_FILE, RESULTS_FILE
from ernie_m.downstream.task import OF_TRAINING, Hyperparameters, Setup, Task
from ernie_m.downstream.training import TrainerOptions, batching, ranks
from ernie_m.downstream.unknown import tell_unknown
from ernie_m.interop.encoder import OpenEncoder, open_encoder
from ernie_m.runs.ranks import this_device
from ernie_m.training.deepspeed_adapter import prepare
from ernie_m.training.engine import Precision, choose_precision

NOT_SETTINGS = ("micro_batch",)  # hyperparameters that change no score


@dataclass(frozen=True)
class Experiment:
    """What the command line says."""

    task: Task[Any]
    setting: str
    encoder: Path | str
    """Folder or hub id of any Hugging Face encoder."""
    files: task_files.FileOptions
    to: Path
    """Folder for everything that comes of it."""
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    """Hyperparameters as key=value, instead of the paper's."""
    precision: str = "fp32"
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed configuration of transformers' integration."""
    keep_models: bool = True
    score_only: bool = False
    """Score the folder's own head; nothing is trained, and `seeds` does not count."""
    trust_remote_code: bool = False
    """Whether Python code that the encoder's folder brings may run."""


def run(experiment: Experiment) -> dict[str, Any]:
    """Run the seeds that are not done yet, then print and write the scores of all; returns results.json's content.

    Raises InputError for an unknown setting, a folder of other settings, and everything wrong with files and encoder.
    """
    _check_asked(experiment)
    prepare()  # the Trainer imports DeepSpeed where it is installed, used or not
    task, rank = experiment.task, ranks()[0]
    encoder = open_encoder(experiment.encoder, experiment.trust_remote_code)
    size = encoders.size_of(encoder.config)
    hyperparameters = hyperparameters_of(task, experiment.setting, size, experiment.overrides)
    if experiment.score_only:
        own_head(task, encoder)  # before files are read
    else:
        batching(hyperparameters, ranks()[1])
    data = _data_of(experiment)
    setup = _setup(experiment, encoder, data, hyperparameters)
    for examples in (data.validation, data.test):
        task.check(examples, setup)
    trainer_options = TrainerOptions(experiment.precision, experiment.deepspeed, experiment.keep_models)
    updates = _updates(experiment, data, hyperparameters)
    if rank == 0:
        settings.claim(experiment.to, _settings(experiment, encoder, hyperparameters, trainer_options, data))
        _describe(experiment, size, data, setup, updates)
        tell_unknown(task, data, setup)
    if experiment.score_only:
        results = [score_given(task, data, setup, encoder, experiment.to, trainer_options)]
        return _finish(experiment, encoder, size, data, results) if rank == 0 else {}
    results = [
        run_seed(
            task,
            data,
            setup,
            encoder,
            experiment.to / f"seed_{seed}",
            seed,
            trainer_options,
            f"{task.name}, seed {seed} ({number} of {len(experiment.seeds)}): ",
        )
        for number, seed in enumerate(experiment.seeds, start=1)
    ]
    return _finish(experiment, encoder, size, data, results) if rank == 0 else {}


def check(experiment: Experiment) -> None:
    """Look at options and files alone: the encoder need not be there, and is taken for one of base size.

    Raises InputError for what is wrong with them.
    """
    _check_asked(experiment)
    hyperparameters = hyperparameters_of(experiment.task, experiment.setting, "base", experiment.overrides)
    if not experiment.score_only:
        batching(hyperparameters, ranks()[1])
    data = _data_of(experiment)
    tested = [example for examples in data.test.values() for example in examples]
    classes = experiment.task.labels(tested if experiment.score_only else data.train)  # of a model that is not here
    for examples in (data.validation, data.test):
        experiment.task.check(examples, Setup(None, hyperparameters, classes, experiment.setting))
    _updates(experiment, data, hyperparameters)


def _data_of(experiment: Experiment) -> task_files.TaskData:
    if experiment.score_only:
        return task_files.load_test(experiment.task, experiment.files)
    return task_files.load(experiment.task, experiment.setting, experiment.files)


def _check_asked(experiment: Experiment) -> None:
    if importlib.util.find_spec("accelerate") is None:  # transformers' Trainer does without until it starts
        raise InputError("fine-tuning needs accelerate, which is not installed; pip install 'ernie-m[finetune]'")
    if experiment.setting not in experiment.task.settings:
        raise InputError(f"--setting {experiment.setting}: expected one of {', '.join(experiment.task.settings)}")


def _updates(experiment: Experiment, data: task_files.TaskData, hyperparameters: Hyperparameters) -> int:
    """The updates of a seed. Raises InputError where none of them would be evaluated."""
    updates = num_updates(len(data.train), hyperparameters)
    if hyperparameters.evaluate_every > updates and not experiment.score_only:
        raise InputError(
            f"evaluate_every: {hyperparameters.evaluate_every}; expected at most {updates}, the updates of a seed"
        )
    return updates


def hyperparameters_of(task: Task[Any], setting: str, size: encoders.Size, overrides: Sequence[str]) -> Hyperparameters:
    """The paper's, with the user's changes. Raises InputError for an unknown key or a value that does not fit."""
    defaults = task.defaults(setting, size)
    return build(type(defaults), merge_overrides(to_mapping(defaults), overrides), "hyperparameters")


def _setup(
    experiment: Experiment, encoder: OpenEncoder, data: task_files.TaskData, hyperparameters: Hyperparameters
) -> Setup:
    task, longest = experiment.task, encoder.tokenizer.model_max_length
    head = own_head(task, encoder) if experiment.score_only else encoder.head(task.auto_class, task.labels(data.train))
    announce([*encoder.choices, *filter(None, [head.choice])])
    if longest < hyperparameters.max_length:
        reason = f"the encoder has room for no more; asked for {hyperparameters.max_length}"
        announce([Choice("max_length", str(longest), reason)])
        hyperparameters = replace(hyperparameters, max_length=longest)
    return Setup(encoder.tokenizer, hyperparameters, head.classes, experiment.setting)


def chosen_precision(asked: str) -> str:
    """fp32, bf16 or fp16 by what is asked and what the device can; raises InputError for anything else."""
    if asked not in typing.get_args(Precision):
        raise InputError(f"--precision {asked}: expected {', '.join(typing.get_args(Precision))}")
    choice = choose_precision(typing.cast(Precision, asked), this_device())
    announce([choice])
    return choice.value


def _settings(
    experiment: Experiment,
    encoder: OpenEncoder,
    hyperparameters: Hyperparameters,
    trainer_options: TrainerOptions,
    data: task_files.TaskData,
) -> dict[str, Any]:
    """All that the scores of a seed depend on."""
    folder, read_with = experiment.files.folder, experiment.task.read_with
    shaping = {key: value for key, value in to_mapping(hyperparameters).items() if key not in NOT_SETTINGS}
    return {
        **({"score_only": True} if experiment.score_only else {}),  # settings of before say nothing of it
        "task": experiment.task.name,
        "setting": experiment.setting,
        "hyperparameters": shaping,
        "precision": trainer_options.precision,
        "zero_stage": (experiment.deepspeed or {}).get("zero_optimization", {}).get("stage"),
        "from_dev": experiment.files.from_dev,
        "encoder": settings.of_encoder(encoder),
        "data": {part: settings.of_data(sources, folder, read_with) for part, sources in data.files.items()},
    }


def _describe(experiment: Experiment, size: str, data: task_files.TaskData, setup: Setup, updates: int) -> None:
    task, hyperparameters = experiment.task, setup.hyperparameters
    used = {k: v for k, v in to_mapping(hyperparameters).items() if not (experiment.score_only and k in OF_TRAINING)}
    shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in used.items())
    trained = ", ".join(f"{language} {count:,}" for language, count in data.num_train.items())
    print(f"{task.name}, {experiment.setting}, {experiment.encoder} (as the paper's {size}): {shown}")
    tested = f"tested on: {', '.join(data.predicted)}"
    if experiment.score_only:
        print(f"not trained, scored as it is; {tested}", flush=True)
        return
    print(f"train: {trained}; chosen on: {', '.join(data.validation)}; {tested}")
    print(f"{len(experiment.seeds)} seeds of {updates:,} updates", flush=True)


def _difference(task: Task[Any], data: task_files.TaskData, from_dev: bool) -> str | None:
    """How the test data differ from the paper's; None if they do not."""
    if from_dev:
        return "parts of dev files"
    chosen_by = [language for language, examples in data.test.items() if examples == data.validation.get(language)]
    if chosen_by:
        return f"in {chosen_by[0]} what the best checkpoint was chosen by"
    counts = {language: len(examples) for language, examples in data.test.items()}
    return paper.difference(task.name, counts) or task.difference(data.test, [file.path for file in data.files["test"]])


def _finish(
    experiment: Experiment,
    encoder: OpenEncoder,
    size: encoders.Size,
    data: task_files.TaskData,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    task = experiment.task
    if not data.test:
        return _only_predicted(experiment, data, results)
    judged = data.test if experiment.score_only else data.validation
    trivial = statistics.fmean(task.trivial_score(examples) for examples in judged.values())
    summary = report.summarise(results, task.metrics, trivial, sum(map(len, judged.values())))
    difference = _difference(task, data, experiment.files.from_dev)
    row, absence = paper.row_of(task.name, experiment.setting, size, difference)
    cut = "; train, validation and test cut out of dev files" if experiment.files.from_dev else ""
    chosen = f"best checkpoint by validation on {', '.join(data.validation)}; mean ± sd of {len(results)} seeds{cut}"
    protocol = f"{task.protocol}; {'scored as given, not trained here' if experiment.score_only else chosen}"
    remarks = report.remarks(summary, results, row)
    if experiment.score_only:
        results, remarks = [], doubt(task, bool(summary.collapsed), trivial)
    content = {
        "task": task.name,
        "setting": experiment.setting,
        "encoder": str(experiment.encoder),
        "protocol": protocol,
        "not_the_papers_data": difference,
        "not_scored": list(data.unlabelled),
        **report.as_json(summary, row),
        "seeds": list(results),
    }
    write_json(experiment.to / RESULTS_FILE, content)
    title = f"{task.name}, {experiment.setting}: {encoder.title}"
    report.draw(summary, results, row, title, experiment.to / PICTURE_FILE)
    print(f"\n{report.as_table(summary, results, row)}\n")
    if row and (repeated := paper.REPEATED.get((task.name, experiment.setting, size))):
        remarks.append(f"the released {size} model, as others measured it: {repeated:.2f} over all its languages")
    for line in (*remarks, *filter(None, [absence, _not_scored(data)]), f"protocol: {protocol}"):
        print(line)
    print(f"written: {experiment.to / RESULTS_FILE}, {experiment.to / PICTURE_FILE}", flush=True)
    return content


def _not_scored(data: task_files.TaskData) -> str | None:
    """The languages whose test files have no labels, in a line."""
    where = "their answers are in predictions/ and, in XTREME's layout, in xtreme/"
    return f"predicted and not scored, without labels: {', '.join(data.unlabelled)}; {where}" if data.unlabelled else None


def _only_predicted(
    experiment: Experiment, data: task_files.TaskData, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """results.json where no test file has labels: what the seeds reached on validation, and no score."""
    content = {
        "task": experiment.task.name,
        "setting": experiment.setting,
        "encoder": str(experiment.encoder),
        "not_scored": list(data.unlabelled),
        "seeds": [] if experiment.score_only else list(results),
    }
    write_json(experiment.to / RESULTS_FILE, content)
    print(f"\n{_not_scored(data)}\nwritten: {experiment.to / RESULTS_FILE}", flush=True)
    return content
