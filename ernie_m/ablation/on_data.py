"""Comparisons on a data folder that is there: all take the same options and differ in what is compared.

Each is a plan and a function: which variants, how their results are told. `ernie_m.commands.ablate` gives them their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.ranges import Range

if TYPE_CHECKING:
    from ernie_m.ablation.comparison import ComparisonPlan
    from ernie_m.ablation.variants import Variant

SHARED = """

        Args:
            overrides: any key of the recipes as key.path=value, for all variants alike
            data: folder made by `python -m data_prep build`
            to: folder for everything; the same one again goes on
            recipe: {recipe}
            steps: steps of each run altogether; its stages and its warm-up are scaled to that. Default: the recipe's
            seeds: runs of each variant, with the seeds 0 .. seeds - 1
            jobs: runs at work side by side; the cores are shared out
            only: variants that are run and told, by their names in the table, with commas between; default all
            deepspeed: options of the deepspeed launcher, e.g. --deepspeed="--num_gpus 8" or
                --deepspeed="--hostfile hostfiles/v100x64"; without it each run is one process
            tatoeba: folder of tatoeba.LLL-eng.LLL and .eng: retrieval in those languages that the data has
            held_out: folder of line-aligned XX-en.XX and XX-en.en: masked perplexity and cross-lingual gain
            pairs: pairs of each of those languages that are used
            gold: word links made by people, NAME=FILE with commas between, of `source ||| target ||| 0-0 1-2` lines (or
                tabs): alignment error rate of the links of each layer's states
            finetune: benchmarks that each run is fine-tuned on by `ernie-m finetune`, as TASK=FOLDER with commas
                between, e.g. xnli=data/xnli,ner=data/conll
            finetune_options: more for these, e.g. --finetune_options="--seeds 2 --from_dev epochs=1"
        """


Comparison = Callable[["ComparisonPlan", str | None, int | None, tuple[str, ...]], None]


def comparing(name: str, summary: str, recipe_help: str, compare: Comparison) -> Callable[..., None]:
    """The command of a comparison on given data: all take the same options."""

    def command(
        self: object,
        *overrides: str,
        data: str,
        to: str,
        recipe: str | None = None,
        steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        seeds: Annotated[int, Range(least=1, most=1000)] = 1,
        jobs: Annotated[int, Range(least=1, most=1000)] = 1,
        only: str | None = None,
        deepspeed: str = "",
        tatoeba: str | None = None,
        held_out: str | None = None,
        pairs: Annotated[int, Range(least=2, most=10**6)] = 200,
        gold: str | None = None,
        finetune: str | None = None,
        finetune_options: str = "",
    ) -> None:
        from ernie_m.ablation.asked import plan_of

        plan = plan_of(
            *(data, to, seeds, jobs, pairs),
            only=only,
            deepspeed=deepspeed,
            tatoeba=tatoeba,
            held_out=held_out,
            gold=gold,
            finetune=finetune,
            finetune_options=finetune_options,
        )
        compare(plan, recipe, steps, overrides)

    command.__name__ = name
    command.__doc__ = summary + SHARED.format(recipe=recipe_help)
    return command


def objectives(plan: ComparisonPlan, recipe: str | None, steps: int | None, overrides: tuple[str, ...]) -> None:
    from ernie_m.ablation import comparison, report, variants

    compared = variants.objectives(recipe, steps, overrides)
    report.write("Objectives (the paper's Table 6)", compared, comparison.run(compared, plan), [], plan.to)


def pseudo_share(plan: ComparisonPlan, recipe: str | None, steps: int | None, overrides: tuple[str, ...]) -> None:
    from ernie_m.ablation import variants

    compared = variants.pseudo_shares("exp5", recipe, steps, overrides)
    _write_with_figure_6("Share of pseudo tokens (the paper's Figure 6)", compared, plan)


def btmlm(plan: ComparisonPlan, recipe: str | None, steps: int | None, overrides: tuple[str, ...]) -> None:
    from ernie_m.ablation import variants

    compared = variants.btmlm(recipe or "scratch", steps, overrides)
    _write_with_figure_6("BTMLM: when it begins, its rows, its pseudo tokens", compared, plan)


def _write_with_figure_6(title: str, compared: Sequence[Variant], plan: ComparisonPlan) -> None:
    """Run, and draw the perplexity of BTMLM's masks beside the table, of those variants that have BTMLM."""
    from ernie_m.ablation import comparison, report

    results = comparison.run(compared, plan)
    compared = plan.chosen(compared)
    drawn = [v for v in compared if any("BTMLM" in stage.rows for stage in v.config.stages)]
    runs = {v.name: [plan.to / "runs" / name for name in plan.job_names(v)] for v in drawn}
    remarks, picture = [], plan.to / "pseudo_share.png"
    if drawn:
        report.draw_pseudo_perplexity(drawn, runs, picture)
        remarks = [report.pseudo_perplexity(drawn, runs), f"over steps: {picture.name} (the paper's Figure 6)"]
    report.write(title, compared, results, remarks, plan.to)


def alignlm(plan: ComparisonPlan, recipe: str | None, steps: int | None, overrides: tuple[str, ...]) -> None:
    from ernie_m.ablation import comparison, report, variants
    from ernie_m.corpus.columns import LINKS
    from ernie_m.corpus.folder import CorpusFolder

    folder = CorpusFolder(plan.data)
    for stream in folder.parallel():
        folder.require_column(LINKS.name, stream)
    compared = variants.alignlm(recipe or "alignlm", steps, overrides)
    report.write("AlignLM (arXiv 2106.01732)", compared, comparison.run(compared, plan), [variants.ALIGNLM_REMARK], plan.to)


def scratch(plan: ComparisonPlan, recipe: str | None, steps: int | None, overrides: tuple[str, ...]) -> None:
    from ernie_m.ablation import comparison, recipes, report, variants
    from ernie_m.corpus.folder import CorpusFolder

    vocab_size = CorpusFolder(plan.data).manifest.vocab_size
    compared = variants.scratch(recipe or "small", steps, overrides, vocab_size)
    results = comparison.run(compared, plan)
    each = ", ".join(f"{v.name} {recipes.flops(v.config, vocab_size):.3g}" for v in compared)
    remarks = [
        f"FLOPs by ernie_m.planning.speed: {each}",
        "the paper, on its own data: +4.4 XNLI, +6.6 CoNLL over XLM-R small",
    ]
    report.write("From scratch at equal compute (the paper's Table 8)", compared, results, remarks, plan.to)
