"""XLM's table (arXiv 1901.07291, Table 2): what encoder and decoder of a translation model start from, in BLEU both ways.

1. `pretrainings`: CLM and MLM of one stack, a run each, or given; all rows and all seeds start from them.
2. `rows`: nothing, CLM or MLM on each side; word embeddings on both. Trained on pairs, also a prefix language model: the
   stack of MLM goes on as it is and reads source and target in one row, without a decoder and without attention across.
3. `run`: the pre-trainings first, then each row with each seed, translated and scored in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.ablation.cells import Cell
from ernie_m.ablation.comparison import ComparisonPlan, claim, do, recipe_file, training_part
from ernie_m.ablation.jobs import Job, Part, python_m
from ernie_m.ablation.recipes import budgeted
from ernie_m.ablation.variants import Variant
from ernie_m.base.config import read_recipe
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json
from ernie_m.base.shipped import recipe_path
from ernie_m.corpus.aligned_files import read_parallel
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.sides import check_shared
from ernie_m.interop.start import starts_of
from ernie_m.runs.best_checkpoint import BEST
from ernie_m.training.recipe import total_steps
from ernie_m.translation.scores import require_sacrebleu

NOTHING, EMBEDDINGS, CLM, MLM, PREFIX = "nothing", "embeddings", "clm", "mlm", "prefix_lm"
PRETRAININGS = {CLM: "xlm_clm", MLM: "xlm_mlm"}
Score = tuple[float, float]
TABLE_2: dict[tuple[str, str], Score] = {
    (NOTHING, NOTHING): (13.0, 15.8),
    (EMBEDDINGS, EMBEDDINGS): (29.4, 29.4),
    (NOTHING, CLM): (25.3, 26.4),
    (NOTHING, MLM): (29.2, 29.1),
    (CLM, NOTHING): (28.7, 28.2),
    (CLM, CLM): (30.4, 30.0),
    (CLM, MLM): (32.3, 31.6),
    (MLM, NOTHING): (31.6, 32.1),
    (MLM, CLM): (33.4, 32.3),
    (MLM, MLM): (33.4, 33.3),
}
"""Encoder's and decoder's start -> the paper's BLEU en-fr and fr-en, unsupervised."""


@dataclass(frozen=True)
class Kind:
    """How the models of a table learn to translate: the recipe, and which checkpoint is scored (None: the newest)."""

    recipe: str
    title: str
    checkpoint: str | None = None
    has_prefix: bool = False
    paper: Mapping[tuple[str, str], Score] | None = None
    remark: str = ""


KINDS = {
    "supervised": Kind(
        "xlm_mt",
        "Translation from pairs, by what encoder and decoder start from",
        has_prefix=True,
        remark="the paper has no such table for training on pairs; its Table 2 is of --kind unsupervised",
    ),
    "unsupervised": Kind(
        "xlm_unsupervised",
        "Translation without pairs, by what encoder and decoder start from (Table 2 of arXiv 1901.07291)",
        checkpoint=BEST,
        paper=TABLE_2,
        remark="the paper: 6 layers x 1024, 5 M lines and more a language, BLEU of tokenised text; its word embeddings are "
        "FastText's. Scored is the checkpoint with the best round trip of those kept (output.keep_best)",
    ),
}


OF_A_DECODER = ("model.decoder", "output.keep_best", "output.bleu_text")
"""Keys that a model of one stack does without."""


@dataclass(frozen=True)
class TranslationPlan:
    """What a table is made with, beside what every comparison is (`shared`)."""

    shared: ComparisonPlan
    kind: Kind
    test: Path
    """Prefix of two files, PREFIX.en and PREFIX.fr, aligned line by line."""
    given: Mapping[str, str]
    """Runs that are taken for a pre-training, by its name."""
    embeddings: str | None = None
    """A file of word vectors, a run or a folder; None: the word embedding of MLM."""

    @property
    def directions(self) -> list[tuple[str, str]]:
        """Of the data's two languages: en-fr and fr-en."""
        languages = list(CorpusFolder(self.shared.data).manifest.languages)
        if len(languages) != 2:
            raise InputError(f"{self.shared.data}: text in {', '.join(languages)}; expected data of two languages")
        first, second = sorted(languages)
        return [(first, second), (second, first)]

    def start(self, name: str) -> str | None:
        """What init_encoder and init_decoder say for it."""
        if name == EMBEDDINGS:
            return f"embeddings:{self.embeddings or self.start(MLM)}"
        if name == NOTHING:
            return None
        return self.given.get(name) or str(self.shared.to / "runs" / f"{name}_seed0")


def pretrainings(plan: TranslationPlan, shape: str | None, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """The runs of one stack that rows start from; `shape`: a translation recipe that gives all but their stages.

    Its warm-up is a share of its own steps, and the same share of theirs.
    """
    found = []
    for name, own_recipe in PRETRAININGS.items():
        if name in plan.given:
            continue
        content = read_recipe(recipe_path(own_recipe))
        length = steps or total_steps(content)
        content = budgeted(content, length, [])
        if shape is not None:
            taken = budgeted(read_recipe(recipe_path(shape)), length, [])
            for key in ("objective_weights", "init_encoder", "init_decoder", "init_from"):
                taken.pop(key, None)
            content = {**_of_one_stack(taken), "stages": content["stages"]}
        own = [override for override in overrides if override.partition("=")[0] not in OF_A_DECODER]
        found.append(Variant(name, name.upper(), budgeted(content, None, own)))
    return found


def rows(plan: TranslationPlan, shape: str | None, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """The rows of the table: they differ in `init_encoder` and `init_decoder`, the prefix language model in its model."""
    recipe = budgeted(read_recipe(recipe_path(shape or plan.kind.recipe)), steps, overrides)
    found = []
    for (encoder, decoder), paper in TABLE_2.items():
        starts = {"init_encoder": plan.start(encoder), "init_decoder": plan.start(decoder)}
        told = dict(zip(("there", "back"), paper, strict=True)) if plan.kind.paper else {}
        found.append(Variant(f"{encoder}_{decoder}", f"{encoder}, {decoder}", {**recipe, **starts}, paper=told))
    if plan.kind.has_prefix:
        alone = {**_of_one_stack(recipe), "init_from": plan.start(MLM), "stages": [_pairs_alone(recipe)]}
        found.append(Variant(PREFIX, "mlm, no decoder: prefix language model", alone))
    return found


def _of_one_stack(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The same recipe without a decoder, and without the keys that are for models with one."""
    found = {**recipe}
    for section, key in (key.split(".") for key in OF_A_DECODER):
        found[section] = {name: value for name, value in found.get(section, {}).items() if name != key}
    return found


def _pairs_alone(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {"steps": total_steps(recipe), "rows": {"MT": 1}}


def run(
    plan: TranslationPlan,
    shape: str | None,
    pretraining_steps: int | None,
    steps: int | None,
    overrides: Sequence[str],
) -> tuple[list[Variant], dict[str, list[dict[str, Any]]]]:
    """Run what is not done yet of the rows that are asked for, and of what these start from.

    Returns the rows that are finished, with the scores of each, one a seed: {"en-fr": what `evaluate translation` writes}.
    Raises InputError, before anything starts, for recipes that do not fit the data, for test files that are missing or not
    aligned, and without sacrebleu.
    """
    require_sacrebleu()
    read_parallel([Path(f"{plan.test}.{language}") for language in plan.directions[0]])
    before, compared = pretrainings(plan, shape, pretraining_steps, overrides), rows(plan, shape, steps, overrides)
    chosen = plan.shared.chosen(compared)
    for variant in chosen:
        _check_sides(variant)
    for variant in _startable(chosen, [str(plan.start(v.name)) for v in before]):
        _row_job(variant, 0, plan)  # what does not fit shows before anything is written or trained
    claim([*before, *compared], plan.shared)
    needed = [v for v in before if len(_startable(chosen, [str(plan.start(v.name))])) < len(chosen)]
    do([_training_job(variant, 0, plan) for variant in needed], plan.shared)
    do([_row_job(variant, seed, plan) for seed in range(plan.shared.seeds) for variant in chosen], plan.shared)
    finished = [
        v for v in compared if all(part.is_done() for name in plan.shared.job_names(v) for part in _scoring(plan, name))
    ]
    return finished, {v.name: [_scores(plan, name) for name in plan.shared.job_names(v)] for v in finished}


def _check_sides(variant: Variant) -> None:
    """Raise InputError, naming the row, for sides that cannot start so: before hours of what they would start from."""
    try:
        check_shared(starts_of(variant.recipe), variant.recipe.get("model", {}).get("decoder"))
    except InputError as error:
        raise InputError(f"row {variant.name}: {error}, or leave it out with --only") from None


def _startable(compared: Sequence[Variant], missing: Sequence[str]) -> list[Variant]:
    """The rows that start from nothing or from what is given, not from one of these runs, which are yet to be trained."""
    starts = {v.name: [v.recipe.get(key) or "" for key in ("init_encoder", "init_decoder", "init_from")] for v in compared}
    return [v for v in compared if not any(start.endswith(run) for start in starts[v.name] for run in missing)]


def _training_job(variant: Variant, seed: int, plan: TranslationPlan) -> Job:
    shared, name = plan.shared, Cell(variant, seed).name
    words = ["--recipe", recipe_file(shared, variant), "--data", shared.data]
    part = training_part(variant, seed, shared, shared.to / "runs" / name, words)
    return Job(name, [part], shared.to / "logs" / f"{name}.log")


def _row_job(variant: Variant, seed: int, plan: TranslationPlan) -> Job:
    job = _training_job(variant, seed, plan)
    job.parts += _scoring(plan, job.name)
    return job


def _scoring(plan: TranslationPlan, name: str) -> list[Part]:
    """The parts that score a run, one a direction."""
    chosen, parts = ["--checkpoint", plan.kind.checkpoint] if plan.kind.checkpoint else [], []
    for source, target in plan.directions:
        files = ["--source", f"{plan.test}.{source}", "--reference", f"{plan.test}.{target}"]
        where = ["--model", plan.shared.to / "runs" / name, *chosen, "--output", _file(plan, name, source, target)]
        command = python_m("ernie_m", "evaluate", "translation", *where, *files, "--from", source, "--to", target)
        marker = plan.shared.to / "done" / f"{name}.{source}-{target}.json"
        parts.append(Part(f"scoring {source}-{target}", command, marker))
    return parts


def _file(plan: TranslationPlan, name: str, source: str, target: str) -> Path:
    return plan.shared.to / "measures" / f"{name}.{source}-{target}.json"


def _scores(plan: TranslationPlan, name: str) -> dict[str, Any]:
    return {f"{a}-{b}": read_json(_file(plan, name, a, b)) for a, b in plan.directions}
