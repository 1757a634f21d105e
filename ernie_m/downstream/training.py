"""transformers' Trainer as the tasks need it: a learning rate for each layer, scores by the task, one line of progress."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import remove
from ernie_m.base.rank_facts import rank_facts
from ernie_m.downstream.encoders import learning_rate_shares
from ernie_m.downstream.task import Hyperparameters, Logits, Scored, Setup, Task
from ernie_m.downstream.task_files import TaskData
from ernie_m.interop.encoder import OpenEncoder

LARGEST_MICRO_BATCH = 32


@dataclass(frozen=True)
class TrainerOptions:
    """How training runs here; scores should not depend on it beyond rounding."""

    precision: str
    """fp32, bf16 or fp16."""
    deepspeed: dict[str, Any] | None = None
    """A DeepSpeed configuration for transformers' integration; None: plain data parallelism."""
    keep_models: bool = True
    """Whether the best model of each seed stays in its folder."""


def ranks() -> tuple[int, int]:
    """(rank, number of ranks) as a launcher has set them; raises InputError for one that the Trainer does not know."""
    facts = rank_facts(os.environ)
    if facts.launcher is not None and facts.launcher.brings != "address" and facts.world_size > 1:
        ours = "-m ernie_m.commands.finetune ..."
        way_out = f"start one task a host, and in it torchrun --nproc_per_node {facts.world_size} {ours}"
        raise InputError(f"{facts.launcher.name} started {facts.world_size} ranks, which would train alone each; {way_out}")
    return facts.rank, facts.world_size


def batching(hyperparameters: Hyperparameters, world_size: int) -> tuple[int, int]:
    """(examples a rank takes at a time, how many times an update); raises InputError when the batch does not divide."""
    batch, asked = hyperparameters.batch_size, hyperparameters.micro_batch
    per_rank, rest = divmod(batch, world_size)
    if rest or (asked and per_rank % asked):
        by = f"{world_size} ranks" + (f" of micro_batch {asked}" if asked else "")
        raise InputError(f"batch_size {batch} does not divide over {by}; change batch_size, micro_batch or the ranks")
    micro = asked or max(n for n in range(1, min(per_rank, LARGEST_MICRO_BATCH) + 1) if per_rank % n == 0)
    return micro, per_rank // micro


class TaskTrainer(Trainer):
    """transformers' Trainer with layer-wise learning rates, scoring by the task."""

    def __init__(
        self, task: Task[Any], data: TaskData, setup: Setup, encoder: OpenEncoder, arguments: TrainingArguments, note: str
    ) -> None:
        self.task, self.data, self.setup = task, data, setup
        self.validation_features = {k: task.features(e, setup, False) for k, e in data.validation.items()}
        super().__init__(
            model=task.model(encoder, setup),
            args=arguments,
            train_dataset=task.features(data.train, setup, True) if data.train else None,
            eval_dataset=next(iter(self.validation_features.values())),
            data_collator=task.collator(setup),  # type: ignore[arg-type]
            processing_class=setup.tokenizer,
            compute_loss_func=loss_of_update if setup.labels else None,
            callbacks=[Reporter(note)] if ranks()[0] == 0 else [],
        )
        self.remove_callback(PrinterCallback)
        # Heads take **kwargs but give the mean of what they are given. Told otherwise, the Trainer multiplies their loss by
        # the number of ranks and of accumulated micro-batches, and clipping then sees a gradient that is too large. Tasks
        # with classes have `loss_of_update`; the others have as many answers in each micro-batch.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a group for each learning rate, with and without weight decay."""
        if self.optimizer is None:
            wanted: Any = self.model if model is None else model
            hyperparameters: Hyperparameters = self.setup.hyperparameters
            self.optimizer = torch.optim.AdamW(
                parameter_groups(wanted, hyperparameters, set(self.get_decay_parameter_names(wanted))),
                lr=hyperparameters.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=hyperparameters.adam_epsilon,
            )
        return self.optimizer

    def compute_loss(self, model: Any, *arguments: Any, **keywords: Any) -> Any:
        """The Trainer's loss; raises InputError for one that is not finite, before any weight changes."""
        found = super().compute_loss(model, *arguments, **keywords)
        loss = found[0] if isinstance(found, tuple) else found
        if model.training and not bool(torch.isfinite(loss).all()):
            raise self._not_finite("the loss", f"is {float(loss.detach().float().mean())}")
        return found

    def _not_finite(self, what: str, how: str) -> InputError:
        rate, instead = self.setup.hyperparameters.learning_rate, ", or --precision fp32" if self.args.fp16 else ""
        return InputError(
            f"{self.args.output_dir}: seed {self.args.seed}, step {self.state.global_step + 1}: {what} {how}; stopped, its "
            f"checkpoints are kept. Try a learning_rate below {rate:g}{instead}, in another folder",
            only_here=True,
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score every validation language; `eval_<metric>` is the mean over them."""
        scored = self.scores(self.data.validation, self.validation_features, "validation")
        metrics = {
            f"eval_{name}": sum(of.metrics[name] for of in scored.values()) / len(scored) for name in self.task.metrics
        }
        self.log(dict(metrics))  # which adds to it
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(
        self, examples: Mapping[str, Sequence[Any]], features: Mapping[str, Sequence[Any]], what: str
    ) -> dict[str, Scored]:
        """The task's scores of each language, from logits gathered over the ranks."""
        scored = {}
        progress = Progress(f"scoring {what}", sum(map(len, examples.values())), "examples") if ranks()[0] == 0 else None
        for language, of_language in examples.items():
            logits: Logits = self.predict(features[language]).predictions  # type: ignore[arg-type]
            if any(np.isnan(part).any() for part in (logits if isinstance(logits, tuple) else (logits,))):
                raise self._not_finite(f"the model's answer to {what} in {language}", "is not a number")
            scored[language] = self.task.score(of_language, features[language], logits, self.setup, language)
            assert set(scored[language].metrics) in (set(self.task.metrics), set())
            assert len(scored[language].predictions) == len(of_language)
            if progress:
                progress.advance(len(of_language), language)
        if progress:
            progress.close()
        return scored

    def save_whole(self, folder: Path) -> None:
        """Model and tokenizer, under their final name when all is written; collective."""
        aside = folder.with_name(f".{folder.name}.tmp")
        if ranks()[0] == 0:
            remove(aside)
            aside.mkdir()  # a new one: no link
        model: Any = self.model
        if not isinstance(model, PreTrainedModel):  # a wrapper, whose encoder is to be saved alone
            weights = self.accelerator.get_state_dict(self.model_wrapped)
            if ranks()[0] == 0:
                model.save_pretrained(aside, weights)
                self.setup.tokenizer.save_pretrained(aside)
        else:
            self.save_model(str(aside))
        if ranks()[0] == 0:
            (aside / "training_args.bin").unlink(missing_ok=True)  # a pickle of what result and settings say
            remove(folder)
            aside.rename(folder)


def loss_of_update(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
    """This micro-batch's part of the mean cross-entropy over the `num_items_in_batch` labels of an update, on all ranks.

    Sentences differ in length, so in a mean of micro-batches' means a word would count more beside fewer words. Labels of
    -100 are not counted; torch leaves them out.
    """
    logits_LC = outputs["logits"].flatten(0, -2).float()
    return F.cross_entropy(logits_LC, labels.flatten(), reduction="sum") / num_items_in_batch


def parameter_groups(model: Any, hyperparameters: Hyperparameters, with_weight_decay: set[str]) -> list[dict[str, Any]]:
    """Groups for torch's optimizers: one for each share of the learning rate, with and without weight decay."""
    groups: dict[tuple[float, bool], list[Any]] = {}
    shares = learning_rate_shares(model, hyperparameters.layer_decay)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((shares[name], name in with_weight_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": share * hyperparameters.learning_rate,
            "weight_decay": hyperparameters.weight_decay if decays else 0.0,
        }
        for (share, decays), parameters in groups.items()
    ]


class Reporter(TrainerCallback):
    """Progress of the training, and a line for each look at the validation score."""

    def __init__(self, note: str) -> None:
        self._note = note
        self._progress: Progress | None = None
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the progress line; the number of updates is known now."""
        self._progress = Progress(f"{self._note}fine-tuning", state.max_steps - state.global_step, "updates")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count one update."""
        assert self._progress is not None
        self._progress.advance(1, self._loss)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the newest training loss for the progress line."""
        if logs and "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.3f}"

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Print the validation score."""
        shown = ", ".join(f"{key.removeprefix('eval_')} {value:.2f}" for key, value in metrics.items())
        line = f"{self._note}update {state.global_step}/{state.max_steps}, validation: {shown} {self._loss}"
        print(line.rstrip(), flush=True)


def training_arguments(
    task: Task[Any], hyperparameters: Any, folder: Path, seed: int, trainer_options: TrainerOptions
) -> TrainingArguments:
    """The hyperparameters as transformers' TrainingArguments."""
    micro, accumulation = batching(hyperparameters, ranks()[1])
    by_steps = hyperparameters.evaluate_every > 0
    every = {"eval_steps": hyperparameters.evaluate_every, "save_steps": hyperparameters.evaluate_every} if by_steps else {}
    without_gpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=hyperparameters.micro_batch or LARGEST_MICRO_BATCH,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=hyperparameters.epochs,
        learning_rate=hyperparameters.learning_rate,
        weight_decay=hyperparameters.weight_decay,
        adam_epsilon=hyperparameters.adam_epsilon,
        max_grad_norm=hyperparameters.clip,
        warmup_steps=hyperparameters.warmup_share,  # below 1 it is a share
        eval_strategy="steps" if by_steps else "epoch",
        save_strategy="steps" if by_steps else "epoch",
        save_total_limit=1,  # beside the best one
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{task.metrics[0]}",
        greater_is_better=True,
        logging_steps=20,
        logging_nan_inf_filter=False,  # a loss that is not a number is to be seen
        disable_tqdm=True,
        report_to="none",
        bf16=trainer_options.precision == "bf16",
        fp16=trainer_options.precision == "fp16",
        deepspeed=trainer_options.deepspeed,
        use_cpu=without_gpu,
        ddp_backend="gloo" if without_gpu and ranks()[1] > 1 else None,
        **every,
    )
    # All GPUs that a single process sees would be taken by DataParallel, each with a micro-batch of its own.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
