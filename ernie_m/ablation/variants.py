"""What is compared: variants that differ in one thing. Each is a whole recipe, scaled to the budget.

*objectives*: exp0 to exp5 of the paper's Table 6.   *pseudo-share*: BTMLM's share of pseudo tokens, Figure 6.
*btmlm*: CAMLM without BTMLM and with it, by when it begins, its rows of a step and its share of pseudo tokens.
*scratch*: a small model from scratch beside an MMLM-only twin that computes as much, Table 8.
*learning*: MMLM, then TLM, CAMLM and BTMLM added one by one, on data that fits a small machine (docs/results.md).
*transfer*: MMLM, then TLM, CAMLM, BTMLM, and XLCO and AlignLM beside them, on a fetched catalog, at equal steps or compute.
*alignlm*: MMLM, then TLM, AlignLM with three weights of its bilingual loss, and CAMLM beside it (arXiv 2106.01732).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ernie_m.ablation.recipes import budgeted, flops, objectives_in, recipe_of
from ernie_m.base.config import build, merge_overrides
from ernie_m.base.console import InputError
from ernie_m.base.sampling import apportion
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.training.recipe import TrainingConfig, total_steps

TABLE_6 = {  # XNLI transfer, CoNLL: the paper's ablation of objectives
    "exp0": {"xnli": 75.7, "ner": 79.2},
    "exp1": {"xnli": 75.8, "ner": 79.2},
    "exp2": {"xnli": 76.3, "ner": 78.3},
    "exp3": {"xnli": 76.1, "ner": 79.5},
    "exp4": {"xnli": 76.6, "ner": 79.6},
    "exp5": {"xnli": 76.9, "ner": 79.6},
}
ALIGNLM_PAPER = {"tlm": {"xnli": 75.9, "mlqa": 67.7}, "alignlm": {"xnli": 77.0, "mlqa": 68.9}}
"""XNLI accuracy and MLQA F1 of arXiv 2106.01732, Tables 1 and 2: from mBERT, by TLM and by AlignLM with the weight that it
does not tell."""
ALIGNLM_REMARK = (
    "the paper's Tables 1 and 2, from mBERT on its own data, its weight of the bilingual loss not told: "
    "TLM 75.9, AlignLM 77.0 XNLI; TLM 67.7, AlignLM 68.9 MLQA F1"
)
PAPER_SETTINGS = {"xnli": "transfer", "ner": "en", "mlqa": "transfer"}
"""Task -> the setting of `ernie-m finetune` that these are scores of."""
UNTRAINED = "exp0"
PSEUDO_SHARES = (0.05, 0.10, 0.15, 0.20)
BILINGUAL_WEIGHTS = (0.1, 0.5, 1.0)
BILINGUAL_LOSS = "AlignLM_bilingual"
PAIRS_ROWS: dict[str, dict[str, int]] = {
    "mmlm": {},
    "tlm": {"TLM": 3},
    "alignlm": {"AlignLM": 3},
    "camlm": {"TLM": 1, "CAMLM": 2},
}
"""Rows of pairs in the variants of *alignlm*, to one row of MMLM."""
CAMLM_ROWS = {"MMLM": 1, "TLM": 1, "CAMLM": 2}
TRANSFER_STAGES: dict[str, tuple[tuple[float, dict[str, int]], ...]] = {
    "mmlm": ((1.0, {"MMLM": 1}),),
    "tlm": ((1.0, {"MMLM": 1, "TLM": 3}),),
    "camlm": ((1.0, CAMLM_ROWS),),
    "btmlm": ((0.75, CAMLM_ROWS), (0.25, {"MMLM": 1, "TLM": 1, "CAMLM": 4, "BTMLM": 2})),
    "xlco": ((1.0, {"MMLM": 1, "TLM": 2, "XLCO": 1}),),
    "alignlm": ((1.0, {"MMLM": 1, "AlignLM": 3}),),
}
"""Variants of *transfer*: stages as shares of the steps, with their rows. BTMLM begins when the transfer is there."""
BTMLM_BEGINS = (0.25, 0.50)
"""Shares of the steps before BTMLM begins that *btmlm* compares with that of *transfer*."""
BTMLM_ROWS = {1: {"MMLM": 2, "TLM": 1, "CAMLM": 4, "BTMLM": 1}, 4: {"MMLM": 1, "TLM": 1, "CAMLM": 2, "BTMLM": 4}}
"""BTMLM's rows of eight -> rows of a step, for *btmlm*; *transfer* has two."""
LEARNING = ("learning_mmlm", "learning_tlm", "learning_camlm", "learning_btmlm")


@dataclass(frozen=True)
class Variant:
    """One row of a comparison."""

    name: str
    """Names its files: letters, digits and underscores."""
    title: str
    """What people read, e.g. "MMLM + TLM"."""
    recipe: dict[str, Any]
    """The recipe of its runs, all but the seed."""
    is_trained: bool = True
    """Whether it is pre-trained at all: exp0 is measured as it starts."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Task -> the paper's score."""

    @property
    def config(self) -> TrainingConfig:
        """The recipe, checked; raises InputError for what does not fit."""
        return build(TrainingConfig, self.recipe, f"variant {self.name}")

    @property
    def num_steps(self) -> int:
        """Steps of each of its runs."""
        return self.config.num_steps


def objectives(shape: str | None, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """exp0 to exp5; `shape`: a recipe that gives all but the stages."""
    variants = []
    for name in TABLE_6:
        is_trained = name != UNTRAINED
        recipe = budgeted(recipe_of(name if is_trained else "exp1", shape), steps, overrides)
        title = objectives_in(recipe) if is_trained else "no further pre-training"
        variants.append(Variant(name, title, recipe, is_trained, TABLE_6[name]))
    return variants


def pseudo_shares(name: str, shape: str | None, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """Recipe `name`, which must have BTMLM, with each share of pseudo tokens that the paper compares."""
    recipe = budgeted(recipe_of(name, shape), steps, overrides)
    if "BTMLM" not in objectives_in(recipe):
        raise InputError(f"--recipe {name}: its stages have no BTMLM, which pseudo tokens are for; expected e.g. exp5")
    return _by_pseudo_share(recipe)


def _by_pseudo_share(recipe: dict[str, Any], besides: float | None = None) -> list[Variant]:
    """The recipe with each of PSEUDO_SHARES but `besides`."""
    made = []
    for share in (share for share in PSEUDO_SHARES if share != besides):
        changed = merge_overrides(recipe, [f"data.corruption.pseudo_token_share={share}"])
        made.append(Variant(f"pseudo_{round(100 * share):02d}", f"{100 * share:.0f} % pseudo tokens", changed))
    return made


def scratch(name: str, steps: int | None, overrides: Sequence[str], vocab_size: int) -> list[Variant]:
    """Recipe `name` and a twin with MMLM alone, whose steps are chosen so that both compute as much."""
    recipe = budgeted(recipe_of(name, None), steps, overrides)
    stem = Path(name).stem  # a recipe may be given by its path
    full = Variant(f"{stem}_full", objectives_in(recipe), recipe)
    wanted = flops(full.config, vocab_size)
    alone = full.recipe | {"stages": [{"steps": 1, "rows": {"MMLM": 1}}]}
    twin_steps = max(1, round(wanted / flops(build(TrainingConfig, alone, "MMLM twin"), vocab_size)))
    twin = alone | {"stages": [{"steps": twin_steps, "rows": {"MMLM": 1}}]}
    return [Variant(f"{stem}_mmlm", f"MMLM, {twin_steps:,} steps", twin), full]


def learning(steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """The four of docs/results.md, and the weights they start from."""
    made = {name: budgeted(recipe_of(name, None), steps, overrides) for name in LEARNING}
    trained = [Variant(name.removeprefix("learning_"), objectives_in(recipe), recipe) for name, recipe in made.items()]
    return [Variant("untrained", "untrained", made[LEARNING[0]], is_trained=False), *trained]


def transfer(name: str, steps: int | None, overrides: Sequence[str], vocab_size: int | None = None) -> list[Variant]:
    """Recipe `name` untrained and with the rows of TRANSFER_STAGES.

    With `vocab_size` each variant has as many steps as MMLM's FLOPs allow it, else all have as many.
    """
    recipe = budgeted(recipe_of(name, None), steps, overrides)
    num_steps = total_steps(recipe)
    made = [_staged(of, recipe, TRANSFER_STAGES[of], num_steps) for of in TRANSFER_STAGES]
    if vocab_size is not None:
        spent = [flops(of.config, vocab_size) for of in made]
        counts = [max(1, round(num_steps * spent[0] / own)) for own in spent]
        made = [_staged(of, recipe, TRANSFER_STAGES[of], n) for of, n in zip(TRANSFER_STAGES, counts, strict=True)]
    return [replace(made[0], name="untrained", title="untrained", is_trained=False), *made]


def _staged(of: str, recipe: dict[str, Any], shares: Sequence[tuple[float, Mapping[str, int]]], num_steps: int) -> Variant:
    """The recipe with stages that are shares of `num_steps`. Raises InputError where one would have none."""
    if num_steps < len(shares):
        raise InputError(f"--steps {num_steps}: {of} has {len(shares)} stages and would have {num_steps} of them; give more")
    counts = apportion([share for share, _ in shares], num_steps)
    stages = [{"steps": n, "rows": dict(rows)} for n, (_, rows) in zip(counts, shares, strict=True)]
    made = {**recipe, "stages": stages}
    return Variant(of, objectives_in(made), made)


def btmlm(name: str, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """Recipe `name` with CAMLM alone, then with BTMLM, which each of the others changes in one thing."""
    recipe = budgeted(recipe_of(name, None), steps, overrides)
    num_steps = total_steps(recipe)
    before, (_, rows) = TRANSFER_STAGES["btmlm"]
    corruption = recipe.get("data", {}).get("corruption", {})
    usual = corruption.get("pseudo_token_share", CorruptionConfig.pseudo_token_share)

    def variant(of: str, title: str, begin: float = before[0], rows: Mapping[str, int] = rows) -> Variant:
        stages = ((begin, before[1]), (1 - begin, rows))
        return replace(_staged(of, recipe, stages, num_steps), title=title)

    camlm = _staged("camlm", recipe, TRANSFER_STAGES["camlm"], num_steps)
    default = variant(
        "btmlm",
        f"BTMLM from {100 * before[0]:.0f} % of the steps, {rows['BTMLM']} rows of 8, {100 * usual:.0f} % pseudo tokens",
    )
    begins = [variant(f"begin_{100 * begin:.0f}", f"from {100 * begin:.0f} % of the steps", begin) for begin in BTMLM_BEGINS]
    by_rows = [variant(f"rows_{n}", f"{n} rows of 8", rows=rows) for n, rows in BTMLM_ROWS.items()]
    return [camlm, default, *begins, *by_rows, *_by_pseudo_share(default.recipe, besides=usual)]


def alignlm(name: str, steps: int | None, overrides: Sequence[str]) -> list[Variant]:
    """Recipe `name` untrained, with MMLM alone, and with three rows of pairs to one of MMLM: TLM, AlignLM by weight, CAMLM.

    They differ in rows, and AlignLM's in the weight of its bilingual loss, alone. An AlignLM row is TLM's with that loss.
    """
    recipe = budgeted(recipe_of(name, None), steps, overrides)
    num_steps = total_steps(recipe)

    others = {name: weight for name, weight in recipe.get("objective_weights", {}).items() if name != BILINGUAL_LOSS}

    def variant(name: str, weight: float | None = None) -> Variant:
        rows = {"MMLM": 1, **PAIRS_ROWS[name]}
        weights = others if weight is None else {**others, BILINGUAL_LOSS: weight}
        made = {**recipe, "stages": [{"steps": num_steps, "rows": rows}], "objective_weights": weights}
        title, paper = objectives_in(made), ALIGNLM_PAPER.get(name, {})
        if weight is None:
            return Variant(name, title, made, paper=paper)
        return Variant(f"{name}_{round(100 * weight):03d}", f"{title}, weight {weight:g}", made, paper=paper)

    base = variant("mmlm")
    untrained = replace(base, name="untrained", title="untrained", is_trained=False)
    weighed = [variant("alignlm", weight) for weight in BILINGUAL_WEIGHTS]
    return [untrained, base, variant("tlm"), *weighed, variant("camlm")]
