"""Show the data of one step of a run, e.g. of a loss spike.

    ernie-m inspect_step --run RUN --step 1200
    ernie-m inspect_step --run RUN --step 1200 --objective CAMLM --decode

A line a row: its id (objective/stream/visit, as spikes are logged), shard, and lines of the shard from 0, a range a
document. Works on any machine that has the run's folder and its data, also while the run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError, printable
from ernie_m.base.ranges import Range


def inspect_step(
    *,
    run: str,
    step: Annotated[int, Range(least=0, most=10**9, zero="the first")],
    objective: str | None = None,
    decode: bool = False,
    data: str | None = None,
    output: str | None = None,
) -> None:
    """Print which rows a step of a run is made of, and their text; leave such steps out with --skip_steps A:B.

    Args:
        run: run folder of a pre-training
        step: the step as spikes name it, from 0: line "step": 1201 of metrics.jsonl is step 1200
        objective: only rows of this one, e.g. CAMLM; default: all
        decode: also print the text of every row, a document a line, a line a language
        data: the run's data folder, if it lies elsewhere now
        output: also write the rows to this JSON file
    """
    from ernie_m.base.files import check_same_measures, write_json
    from ernie_m.corpus.any_vocabulary import open_vocabulary
    from ernie_m.rows.run_data import open_data
    from ernie_m.runs.skip_steps import SkipSteps

    of = {"run": run, "step": step, "objective": objective}
    check_same_measures(output, of)
    opened = open_data(Path(run), Path(data) if data else None)
    if step >= opened.schedule.num_steps:
        raise InputError(f"--step {step}: expected 0 .. {opened.schedule.num_steps - 1}, the steps of {run}")
    if objective not in (None, *opened.schedule.objectives):
        raise InputError(f"--objective {objective}: expected one of {', '.join(opened.schedule.objectives)}")
    rows = [row for row in opened.describe_step(step) if objective in (None, row["objective"])]
    state = "skipped in this run" if step in SkipSteps.read(Path(run)) else f"--skip_steps {step}:{step + 1} leaves it out"
    print(f"step {step} of {run}: {len(rows)} rows; {state}")
    vocabulary = open_vocabulary(opened.folder.tokenizer_path) if decode else None
    for row in rows:
        ranges = " ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in row["lines"])
        print(f"{row['id']}  {row['shard']}  lines {ranges}")
        if vocabulary is None:
            continue
        for sentences in opened.sentences(row["objective"], row["draw"]):
            for language, ids in zip(row["stream"].split("-"), sentences, strict=True):
                print(f"    {language}: {printable(vocabulary.decode(ids.tolist()))}")
    if output:
        write_json(Path(output), {**of, "rows": rows})


def main(called: str = "ernie-m inspect-step") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(inspect_step, called)


if __name__ == "__main__":
    main()
