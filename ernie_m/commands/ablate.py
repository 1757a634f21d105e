"""Compare pre-trainings that differ in one thing: train, export, measure, fine-tune each, and put them in one table.

    ernie-m ablate objectives   --data DATA --to RUNS --recipe small --steps 20000 --tatoeba TATOEBA
    ernie-m ablate pseudo-share --data DATA --to RUNS --recipe small --steps 20000
    ernie-m ablate btmlm        --data DATA --to RUNS --tatoeba TATOEBA --held_out HELD_OUT
    ernie-m ablate scratch      --data DATA --to RUNS
    ernie-m ablate alignlm      --data DATA --to RUNS --recipe small --gold en-es=GOLD.tsv
    ernie-m ablate translation  --data DATA --to RUNS --test heldout/fr-en --kind unsupervised
    ernie-m ablate learning     --source CORPORA --to RUNS --jobs 2
    ernie-m ablate transfer     --source FETCHED --to RUNS --jobs 2

The same command, given again, goes on: what is finished is not done again, an interrupted training resumes. To stop, send
SIGTERM or press Ctrl-C: trainings save first. Everything is written to RUNS: recipes, runs, logs, results.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.ablation import on_data
from ernie_m.base.command_line import nearest
from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range


class Commands:
    """Compare pre-trainings: `objectives` (Table 6), `pseudo-share` (Figure 6), `btmlm`, `scratch` (Table 8), `alignlm`
    (arXiv 2106.01732), `translation` (XLM's Table 2), `learning`, `transfer`."""

    objectives = on_data.comparing(
        "objectives",
        "exp0 to exp5, the paper's Table 6: which objectives matter.",
        "name or path of a recipe that gives the model, batch and rates instead of exp1 .. exp5's own",
        on_data.objectives,
    )
    pseudo_share = on_data.comparing(
        "pseudo_share",
        "5, 10, 15 and 20 % pseudo tokens in BTMLM, the paper's Figure 6.",
        "name or path of a recipe that gives the model, batch and rates instead of exp5's own",
        on_data.pseudo_share,
    )
    btmlm = on_data.comparing(
        "btmlm",
        "CAMLM alone, then with BTMLM: when it begins, its rows of a step, its pseudo tokens, one thing at a time.\n\n"
        "        The data needs text and pairs; BTMLM is meant for more text than pairs.",
        "name or path of a recipe that gives the model, batch, rates and steps; default scratch",
        on_data.btmlm,
    )
    scratch = on_data.comparing(
        "scratch",
        "A small model from scratch beside an MMLM-only twin at equal compute, the paper's Table 8.",
        "name or path of the recipe to compare with its twin; default small",
        on_data.scratch,
    )
    alignlm = on_data.comparing(
        "alignlm",
        "MMLM; + TLM; + AlignLM with three weights of its bilingual loss; + CAMLM, at equal steps (arXiv 2106.01732).\n\n"
        "        The data needs text, pairs and their word links (`python -m data_prep align`). Word translation by static "
        "embeddings\n        is measured over the dictionary of these links.",
        "name or path of a recipe that gives the model, batch and rates; default alignlm",
        on_data.alignlm,
    )

    def translation(
        self,
        *overrides: str,
        data: str,
        to: str,
        test: str,
        kind: str = "supervised",
        recipe: str | None = None,
        pretraining_steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        seeds: Annotated[int, Range(least=1, most=1000)] = 1,
        jobs: Annotated[int, Range(least=1, most=1000)] = 1,
        only: str | None = None,
        deepspeed: str = "",
        clm: str | None = None,
        mlm: str | None = None,
        embeddings: str | None = None,
    ) -> None:
        """What encoder and decoder start from, XLM's Table 2: nothing, CLM, MLM, word embeddings; BLEU and chrF both ways.

        CLM and MLM are trained once, then each row with each seed. With --kind supervised one more row has no decoder: a
        prefix language model, from MLM.

        Args:
            overrides: any key of the recipes as key.path=value, for all runs alike
            data: folder of text in two languages, of --kind supervised with pairs, made by `python -m data_prep build`
            to: folder for everything; the same one again goes on
            test: PREFIX of two files PREFIX.en and PREFIX.fr, a sentence a line, which translate each other
            kind: supervised (recipe xlm_mt), or unsupervised (xlm_unsupervised; scored at the best round trip)
            recipe: name or path of a recipe in its place, which also gives the pre-trainings' model, batch and rates
            pretraining_steps: steps of CLM and of MLM. Default: those of recipe xlm_mlm
            steps: steps of each translation model. Default: the recipe's
            seeds: runs of each row, with the seeds 0 .. seeds - 1; CLM and MLM have seed 0
            jobs: runs at work side by side; the cores are shared out
            only: rows that are run here, as ENCODER_DECODER or prefix_lm with commas between, e.g. nothing_nothing,mlm_mlm;
                the table has all that are finished in TO
            deepspeed: options of the deepspeed launcher, e.g. --deepspeed="--num_gpus 8"; without it each run is one process
            clm: a finished run, or a folder, in place of the training of CLM
            mlm: the same for MLM
            embeddings: file of word vectors, a run or a folder, for the row of word embeddings. Default: MLM's
        """
        from ernie_m.ablation import translation, translation_report
        from ernie_m.ablation.asked import plan_of, start_of

        if kind not in translation.KINDS:
            hint = nearest(kind, translation.KINDS) or ":"
            raise InputError(f"--kind {kind}{hint} expected {' or '.join(translation.KINDS)}")
        read = {"--clm": clm, "--mlm": mlm, "--embeddings": embeddings}
        shared = plan_of(data, to, seeds, jobs, pairs=1, deepspeed=deepspeed, only=only, read=read)
        given = {name: start_of(run) for name, run in ((translation.CLM, clm), (translation.MLM, mlm)) if run}
        words = start_of(embeddings) if embeddings else None
        plan = translation.TranslationPlan(shared, translation.KINDS[kind], Path(test).resolve(), given, words)
        compared, results = translation.run(plan, recipe, pretraining_steps, steps, overrides)
        translation_report.write(plan.kind, compared, results, shared.to)

    def learning(
        self,
        *overrides: str,
        source: str,
        to: str,
        steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        seeds: Annotated[int, Range(least=1, most=1000)] = 3,
        jobs: Annotated[int, Range(least=1, most=1000)] = 2,
        pairs: Annotated[int, Range(least=2, most=10**6)] = 200,
        gold: str | None = None,
    ) -> None:
        """MMLM; + TLM; + CAMLM; + BTMLM: a small model from scratch at equal steps and positions (docs/results.md).

        Builds its data from SOURCE, trains each with each seed, and measures Tatoeba retrieval, cross-lingual gain and
        masked perplexity, beside the untrained model.

        Args:
            overrides: any key of the recipes as key.path=value, for all variants alike
            source: folder with cc100/, parallel/, eval/tatoeba/ and eval/heldout/ (docs/results.md says what is in it)
            to: folder for everything; the same one again goes on
            steps: steps of each run, instead of the recipes'
            seeds: runs of each variant, with the seeds 0 .. seeds - 1
            jobs: runs at work side by side; the cores are shared out
            pairs: held-out pairs of each language that are used
            gold: word links made by people, NAME=FILE with commas between: alignment error rate of each layer's states
        """
        from ernie_m.ablation import comparison, report, variants
        from ernie_m.ablation.asked import plan_of
        from ernie_m.ablation.learning_data import data_job

        tatoeba, held_out = (str(Path(source) / "eval" / name) for name in ("tatoeba", "heldout"))
        measured_by = {"tatoeba": tatoeba, "held_out": held_out}
        plan = plan_of(f"{to}/data", to, seeds, jobs, pairs, gold=gold, read={"--source": source}, **measured_by)
        compared = variants.learning(steps, overrides)
        comparison.claim(compared, plan)
        comparison.do([data_job(Path(source).resolve(), plan.to)], plan)
        results = comparison.run(compared, plan)
        report.write("Learning across languages", compared, results, [], plan.to)

    def transfer(
        self,
        *overrides: str,
        to: str,
        source: str | None = None,
        data: str | None = None,
        held_out: str | None = None,
        equal_compute: bool = False,
        recipe: str = "scratch",
        vocab_size: Annotated[int, Range(least=300, most=10**6)] = 16_000,
        steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        seeds: Annotated[int, Range(least=1, most=1000)] = 3,
        jobs: Annotated[int, Range(least=1, most=1000)] = 1,
        only: str | None = None,
        finished: str | None = None,
        tatoeba: str | None = None,
        pairs: Annotated[int, Range(least=2, most=10**6)] = 200,
        gold: str | None = None,
        finetune: str | None = None,
        finetune_options: str = "",
    ) -> None:
        """MMLM; + TLM; + CAMLM; + BTMLM; XLCO and AlignLM beside them, from scratch or from an encoder that there is.

        Builds its data from SOURCE (`python -m data_prep fetch --corpus libreoffice`), or takes a folder that is built, as
        an encoder's own tokenizer asks for (model.backbone in the recipe). Trains each with each seed, and measures gain,
        perplexities and retrieval, also between other languages than English. What a finished cell measured is a file in
        TO/cells; such files, given again with --finished, stand for their runs: the work can be spread over days and
        machines.

        Args:
            overrides: any key of the recipe as key.path=value, for all variants alike
            to: folder for everything; the same one again goes on
            source: folder of a fetched catalog; without it and --data nothing is run, finished cells are put in one table
            data: folder made by `python -m data_prep build` (and `align`, for alignlm), in place of a catalog
            held_out: folder of line-aligned pairs XX-YY.XX and XX-YY.YY that are not in the data; default, with --source:
                the held-out pairs of its only corpus
            equal_compute: as many steps as MMLM's FLOPs allow, instead of as many as MMLM has
            recipe: name or path of a recipe that gives the model, batch and rates
            vocab_size: pieces of the tokenizer that is trained on SOURCE
            steps: steps of each run (of MMLM's, with --equal_compute), instead of the recipe's
            seeds: runs of each variant, with the seeds 0 .. seeds - 1
            jobs: runs at work side by side; the cores are shared out
            only: variants that are run here, with commas between: untrained, mmlm, tlm, camlm, btmlm, xlco, alignlm
            finished: folder of cells that were finished elsewhere; they are not run again
            tatoeba: folder of tatoeba.LLL-eng.LLL and .eng: retrieval in another domain. Data that is made of SOURCE
                has none of its sentences, nor of HELD_OUT's
            pairs: held-out pairs of each two languages that are used
            gold: word links made by people, NAME=FILE with commas between: alignment error rate of each layer's states
            finetune: benchmarks as TASK=FOLDER with commas between, e.g. ner=data/wikiann: zero-shot transfer and its gap
            finetune_options: more for these, e.g. --finetune_options="--seeds 1 epochs=3"
        """
        from ernie_m.ablation import catalog_data, comparison, recipes, report, variants
        from ernie_m.ablation.asked import plan_of

        read = catalog_data.data_of(source, data, held_out, Path(to).resolve(), vocab_size, tatoeba)
        plan = plan_of(
            *(str(read.folder), to, seeds, jobs, pairs),
            tatoeba=tatoeba,
            held_out=read.held_out,
            gold=gold,
            finetune=finetune,
            finetune_options=finetune_options,
            finished=finished,
            only=only,
            read={"--source": source},
        )
        compared = variants.transfer(recipe, steps, overrides, read.vocab_size if equal_compute else None)
        results, remarks = comparison.run_cells(compared, plan, read.jobs)
        title = f"{recipes.start_in(compared[0].recipe)}, at equal {'compute' if equal_compute else 'steps'}"
        report.write(title, compared, results, remarks, plan.to)

    def measure(
        self,
        *,
        hugging_face: str,
        output: str,
        run: str | None = None,
        recipe: str | None = None,
        data: str | None = None,
        seed: Annotated[int, Range(least=0, most=2**63 - 1, zero="a seed like others")] = 0,
        tatoeba: str | None = None,
        held_out: str | None = None,
        pairs: Annotated[int, Range(least=2, most=10**6)] = 200,
        gold: str | None = None,
    ) -> None:
        """What the other commands measure each run by: give a finished RUN, or a recipe and its data for untrained weights.

        Args:
            hugging_face: the run's export; with --recipe: folder to write, the export of the untrained weights
            output: JSON file to write
            run: run folder of a pre-training
            recipe: path of a recipe, whose weights are measured as its seed draws them
            data: data folder; with --run by default the one it was started on. If it is given and has word links, static
                embeddings are measured over their dictionary
            seed: with --recipe: of the weights
            tatoeba: folder of tatoeba.LLL-eng.LLL and .eng
            held_out: folder of line-aligned XX-en.XX and XX-en.en
            pairs: pairs of each of those languages that are used
            gold: NAME=FILE with commas between, word links made by people
        """
        from ernie_m.ablation import measured_model
        from ernie_m.ablation.asked import resolved
        from ernie_m.base.files import check_same_measures, require_outside, write_json
        from ernie_m.corpus.gold_sets import gold_paths

        if (run is None) == (recipe is None) or (recipe is not None and data is None):
            raise InputError("measure: give either --run, or --recipe with --data")
        check_same_measures(output, {"measure": "ablation"})
        folder = resolved(data)
        by = measured_model.MeasureData(resolved(held_out), resolved(tatoeba), pairs, folder, gold_paths(gold))
        if run is not None:
            result = measured_model.measured(measured_model.of_run(Path(run), folder), Path(hugging_face), by)
        else:
            read = {"--data": data, "--held_out": held_out, "--tatoeba": tatoeba}
            require_outside("--hugging_face", Path(hugging_face), read)
            drawn = measured_model.of_recipe(Path(str(recipe)), seed, Path(str(folder)))
            measured_model.write_hugging_face(drawn, Path(hugging_face))
            result = measured_model.measured(iter([drawn]), Path(hugging_face), by)
        write_json(Path(output), {"measure": "ablation", **result})
        print(f"written: {output}")


def main(called: str = "ernie-m ablate") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(Commands, called)


if __name__ == "__main__":
    main()
