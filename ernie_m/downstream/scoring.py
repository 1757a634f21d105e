"""Score a model that was fine-tuned already, as it is: no training, one column of scores.

In the folder: `settings.json` (what the scores depend on), `predictions/LANGUAGE.jsonl`, `xtreme/TASK/test-LL.*`,
`results.json`, `scores.png`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.downstream.seed import write_predictions
from ernie_m.downstream.task import Setup, Task
from ernie_m.downstream.task_files import TaskData
from ernie_m.downstream.training import TaskTrainer, TrainerOptions, ranks, training_arguments
from ernie_m.interop.encoder import Head, OpenEncoder

GIVEN = 0
"""What stands in the place of the seed's number."""


def own_head(task: Task[Any], encoder: OpenEncoder) -> Head:
    """The folder's head for this task; InputError when it has none, or one of other classes."""
    head = encoder.head(task.auto_class, task.classes_to_score(encoder.class_names))
    if not head.is_kept:
        found = f"its head has {', '.join(encoder.class_names[:4])}" if head.choice else "it has no head"
        raise InputError(
            f"{encoder.name}: {found}; --score_only expected a model fine-tuned for {task.name}"
            + (f", with the classes {', '.join(task.labels([]))}" if len(task.labels([])) > 1 else "")
            + "; leave --score_only out to fine-tune it"
        )
    return head


def score_given(
    task: Task[Any], data: TaskData, setup: Setup, encoder: OpenEncoder, to: Any, trainer_options: TrainerOptions
) -> Mapping[str, Any]:
    """Score the test languages and write the predictions; all ranks call it. The result has the keys of a seed's.

    `validation` is the mean over the scored languages (None without any): nothing was chosen by it.
    """
    hyperparameters = setup.hyperparameters
    of_any_ranks = replace(hyperparameters, batch_size=ranks()[1] * (hyperparameters.micro_batch or 1))  # nothing is trained
    arguments = training_arguments(task, of_any_ranks, to, GIVEN, trainer_options)
    trainer = TaskTrainer(task, replace(data, validation=data.predicted), setup, encoder, arguments, "")
    test = trainer.scores(data.predicted, trainer.validation_features, "test")
    if ranks()[0] == 0:
        write_predictions(to, task, test)
    metrics = {language: scored.metrics for language, scored in test.items() if scored.metrics}
    mean = statistics.fmean(of[task.metrics[0]] for of in metrics.values()) if metrics else None
    return {"seed": GIVEN, "validation": mean, "test": metrics}


def doubt(task: Task[Any], collapsed: bool, trivial: float) -> list[str]:
    """A line for a model whose head seems to be another's."""
    if not collapsed:
        return []
    return [f"not clearly above {trivial:.2f}, the score of a constant answer: was this model fine-tuned for {task.name}?"]
