"""Fine-tune any Hugging Face encoder on the paper's benchmarks and score it, over several seeds.

    ernie-m finetune xnli --model HF_FOLDER --data XNLI --to RUN [--setting transfer] [key=value ...]
    deepspeed --num_gpus 8 --module ernie_m.commands.finetune xnli --model HF_FOLDER --data XNLI --to RUN
    ernie-m finetune xnli --score_only --model FINE_TUNED --data XNLI --to SCORES
    ernie-m finetune tatoeba --model HF_FOLDER --data TATOEBA --to RUN

Commands: xnli, pawsx, ner, mlqa, xquad, tydiqa, tatoeba. The same command again continues: finished seeds are not trained
again.
docs/fine_tuning.md tells which files each task takes and how it is scored.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, require_outside
from ernie_m.base.ranges import Range
from ernie_m.base.shipped import DS_CONFIGS

TASKS = {
    "xnli": "ernie_m.downstream.xnli:Xnli",
    "pawsx": "ernie_m.downstream.pawsx:PawsX",
    "ner": "ernie_m.downstream.ner:Ner",
    "mlqa": "ernie_m.downstream.mlqa:Mlqa",
    "xquad": "ernie_m.downstream.xquad:Xquad",
    "tydiqa": "ernie_m.downstream.tydiqa:Tydiqa",
    "tatoeba": "ernie_m.downstream.bitext_tuning:BitextTuning",
}
OPTIONS = """

        Args:
            overrides: hyperparameters instead of the paper's, as key=value: learning_rate, batch_size, epochs, max_length,
                layer_decay, weight_decay, warmup_share, adam_epsilon, clip, micro_batch, evaluate_every, and the task's own
            model: folder or hub id of any Hugging Face encoder (`ernie-m export` makes one; XLM-R, mBERT ...)
            data: folder with the benchmark's files under their published names or XTREME's
            to: folder for seeds, scores and pictures; the same one again goes on
            setting: {settings}; the first is the default
            seeds: how many (1 .. N), or which, with commas: 3,7; default: 5
            train_files: files instead of those found in data, [LANGUAGE=]PATH with commas between
            validation_files: the same for what chooses the best checkpoint
            test_files: the same for what is scored; files without labels, as XTREME gives them out, are only predicted
            from_dev: cut the dev files into train (60 %), validation and test (20 % each), where only they are at hand;
                scores are then comparable among themselves alone
            precision: auto, fp32, bf16 or fp16
            zero_stage: shard with DeepSpeed's ZeRO 1 or 2; otherwise each rank holds everything
            keep_models: keep the best model of each seed in TO/seed_K/model
            score_only: score a model that was fine-tuned already, as it is; only test files are needed
            trust_remote_code: run the Python code that the encoder's folder brings; without it such a folder is refused
            check: only look whether options and files are right; the model need not be there, nothing is trained
        """
FINE_TUNING = {
    "xnli": ("XNLI: accuracy in 15 languages, trained on English or on translations.", "transfer, translate-train-all"),
    "pawsx": ("PAWS-X: accuracy in 7 languages, trained on English or on translations.", "transfer, translate-train-all"),
    "ner": ("Named entities: entity F1 on CoNLL-2002/2003 or WikiANN files, trained on English or all.", "en, all"),
    "mlqa": ("Questions: F1 and exact match on MLQA or XQuAD, trained on SQuAD.", "transfer, translate-train-all"),
    "xquad": ("Questions: F1 and exact match on XQuAD, trained on SQuAD.", "transfer, translate-train-all"),
    "tydiqa": ("Questions: F1 and exact match on TyDiQA-GoldP, trained on its English or on all of it.", "transfer, all"),
}


def fine_tuning(name: str) -> Callable[..., None]:
    """The command of a task that is trained: all take the same options."""

    def command(
        self: object,
        *overrides: str,
        model: str,
        data: str,
        to: str,
        setting: str | None = None,
        seeds: str | None = None,
        train_files: str | None = None,
        validation_files: str | None = None,
        test_files: str | None = None,
        from_dev: bool = False,
        precision: str = "auto",
        zero_stage: Annotated[int, Range(least=1, most=2)] | None = None,
        keep_models: bool = True,
        score_only: bool = False,
        trust_remote_code: bool = False,
        check: bool = False,
    ) -> None:
        named = {"train": train_files, "validation": validation_files, "test": test_files}
        how = (precision, zero_stage, keep_models, trust_remote_code, score_only, check)
        _run(name, overrides, model, data, to, setting, seeds, named, from_dev, *how)

    summary, settings = FINE_TUNING[name]
    command.__name__ = name
    command.__doc__ = summary + OPTIONS.format(settings=settings)
    return command


class Commands:
    """Fine-tune an encoder and score it: `xnli`, `pawsx`, `ner`, `mlqa`, `xquad`, `tydiqa`; `tatoeba` also without
    training."""

    xnli = fine_tuning("xnli")
    pawsx = fine_tuning("pawsx")
    ner = fine_tuning("ner")
    mlqa = fine_tuning("mlqa")
    xquad = fine_tuning("xquad")
    tydiqa = fine_tuning("tydiqa")

    def tatoeba(
        self,
        *overrides: str,
        model: str,
        data: str,
        to: str,
        setting: str = "zero-shot",
        layer: Annotated[int, Range(least=0, most=1000, zero="the middle one")] = 0,
        untrained: bool = True,
        seeds: str | None = None,
        train_files: str | None = None,
        validation_files: str | None = None,
        precision: str = "auto",
        zero_stage: Annotated[int, Range(least=1, most=2)] | None = None,
        keep_models: bool = True,
        trust_remote_code: bool = False,
        check: bool = False,
    ) -> None:
        """Tatoeba: accuracy of finding a sentence's translation, by every layer; or after hardest-negative fine-tuning.

        Args:
            overrides: for hardest-negative: learning_rate, batch_size, epochs, scale, offset ... as key=value
            model: folder or hub id of any Hugging Face encoder
            data: folder with tatoeba.LLL-eng.LLL and tatoeba.LLL-eng.eng; for hardest-negative bitext too
            to: folder for scores and pictures
            setting: zero-shot or hardest-negative
            layer: whose states are pooled, counted from the embeddings (0); 0: the middle one (7 of 12, 13 of 24)
            untrained: for zero-shot: also measure the same shape with random weights
            seeds: for hardest-negative: how many (1 .. N), or which, with commas; default: 5
            train_files: bitext, [LANGUAGE=]PATH with commas between; of fr-en.fr and fr-en.en the first is named
            validation_files: bitext that chooses the best checkpoint
            precision: for hardest-negative: auto, fp32, bf16 or fp16
            zero_stage: for hardest-negative: shard with DeepSpeed's ZeRO 1 or 2
            keep_models: for hardest-negative: keep the best model of each seed in TO/seed_K/model
            trust_remote_code: run the Python code that the encoder's folder brings; without it such a folder is refused
            check: only look whether options and files are right; the model need not be there, nothing is trained
        """
        if setting not in SETTINGS_OF_TATOEBA:
            raise InputError(f"--setting {setting}: expected one of {', '.join(SETTINGS_OF_TATOEBA)}")
        if setting != "zero-shot":
            _refuse_unused({"nountrained": None if untrained else ""}, "for --setting zero-shot")
            named = {"train": train_files, "validation": validation_files}
            if layer and any(override.startswith("layer=") for override in overrides):
                raise InputError(f"--layer {layer}: also given as layer=...; expected it once")
            overrides = (*overrides, f"layer={layer}") if layer else overrides
            how = (precision, zero_stage, keep_models, trust_remote_code, False, check)
            _run("tatoeba", overrides, model, data, to, setting, seeds, named, False, *how)
            return
        from ernie_m.downstream.tatoeba import read, run

        if overrides or train_files or validation_files:
            raise InputError("tatoeba: hyperparameters and bitext are for --setting hardest-negative, not for zero-shot")
        given = {"precision": None if precision == "auto" else precision, "nokeep_models": None if keep_models else ""}
        _refuse_unused({"seeds": seeds, "zero_stage": zero_stage, **given}, "for --setting hardest-negative")
        require_outside("--to", Path(to), {"--model": model, "--data": data})
        if check:
            read(Path(data))
        else:
            run(model, Path(data), Path(to), layer, untrained, trust_remote_code)


SETTINGS_OF_TATOEBA = ("zero-shot", "hardest-negative")
MOST_SEEDS = 1000


def _refuse_unused(given: Mapping[str, object], why: str) -> None:
    """Raise InputError for the first option that has a value: here it would do nothing."""
    for option, value in given.items():
        if value is not None:
            raise InputError(f"--{f'{option} {value}'.strip()}: {why}; leave it out")


def seeds_of(text: str) -> tuple[int, ...]:
    """'5' -> 1 .. 5; '3,7' and '3,' -> those; raises InputError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text and numbers and 0 < numbers[0] <= MOST_SEEDS:
        numbers = list(range(1, numbers[0] + 1))
    elif "," not in text:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0 or max(numbers) >= 2**32:
        raise InputError(
            f"--seeds {text}: expected a number of seeds up to {MOST_SEEDS}, or different ones below 2**32 with commas "
            "between, e.g. 3,7"
        )
    return tuple(numbers)


def deepspeed_config(zero_stage: int, precision: str) -> dict[str, Any]:
    """The configuration of ds_configs/ for transformers' integration.

    The optimizer is ours, with a learning rate for each layer; one that DeepSpeed made would have a single one.
    """
    path = DS_CONFIGS / f"zero{zero_stage}_{precision}.json"
    config = read_json(path)
    del config["optimizer"]
    return dict(config)


def _task(name: str) -> Any:
    module, _, cls = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), cls)()


def _run(
    name: str,
    overrides: tuple[str, ...],
    model: str,
    data: str,
    to: str,
    setting: str | None,
    seeds: str | None,
    named: dict[str, str | None],
    from_dev: bool,
    precision: str,
    zero_stage: int | None,
    keep_models: bool,
    trust_remote_code: bool,
    score_only: bool = False,
    only_check: bool = False,
) -> None:
    chosen_seeds = seeds_of(seeds or "5")
    require_outside("--to", Path(to), {"--model": model, "--data": data})
    from ernie_m.downstream.experiment import Experiment, check, chosen_precision, run
    from ernie_m.downstream.task import OF_TRAINING
    from ernie_m.downstream.task_files import FileOptions

    if score_only:
        why = "of a training, and --score_only has none"
        _refuse_unused({"seeds": seeds, "zero_stage": zero_stage, "nokeep_models": None if keep_models else ""}, why)
        if of_training := [override for override in overrides if override.partition("=")[0] in OF_TRAINING]:
            raise InputError(f"{of_training[0]}: {why}; leave it out")

    task, chosen = _task(name), chosen_precision(precision)
    experiment = Experiment(
        task=task,
        setting=setting or next(iter(task.settings)),
        encoder=model,
        files=FileOptions(Path(data), {part: files for part, files in named.items() if files}, from_dev),  # type: ignore[misc]
        to=Path(to).resolve(),
        seeds=chosen_seeds,
        overrides=overrides,
        precision=chosen,
        deepspeed=None if zero_stage is None else deepspeed_config(zero_stage, chosen),
        keep_models=keep_models,
        score_only=score_only,
        trust_remote_code=trust_remote_code,
    )
    check(experiment) if only_check else run(experiment)


def main(called: str = "ernie-m finetune") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    # The deepspeed launcher puts it before the command; the environment says the same.
    sys.argv[1:] = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    run_command(Commands, called)


if __name__ == "__main__":
    main()
