"""Compare encoders: the scores of `finetune` on one task side by side, by language, with their spread.

    ernie-m compare scores/xlmr scores/ours [scores/other/results.json ...] [--plot compared.png] [--json compared.json]

The means are over the languages that all have. What makes the columns not comparable (other files, settings, protocols,
hyperparameters, a single seed) is said below the table.
"""

from __future__ import annotations

from pathlib import Path

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError


def compare(*results: str, plot: str | None = None, json: str | None = None, overwrite: bool = False) -> None:
    """Show the scores of several encoders side by side.

    Args:
        results: folders of `finetune`, or their results.json, two or more of one task
        plot: also draw them into this PNG file
        json: also write the figures to this JSON file
        overwrite: replace files that are already there
    """
    from ernie_m.base.console import printable
    from ernie_m.base.files import refuse_existing, require_folder_of, write_json
    from ernie_m.downstream.side_by_side import as_table, compared, draw, read_column, results_file

    if len(results) < 2:
        raise InputError("compare: expected two or more folders of `finetune`, or their results.json")
    for option, file in (("--plot", plot), ("--json", json)):
        if file is not None:
            require_folder_of(option, Path(file))
            refuse_existing(option, Path(file), overwrite=overwrite)
            if Path(file).resolve() in {results_file(Path(result)).resolve() for result in results}:
                raise InputError(f"{option} {file}: is compared itself, and would be lost; give another file")
    if plot is not None and json is not None and Path(plot).resolve() == Path(json).resolve():
        raise InputError(f"--plot and --json: both {plot}; give two files")
    columns = [read_column(Path(result)) for result in results]
    content = compared(columns)
    print(printable(f"{content['task']}, {content['metric']}, %\n\n{as_table(columns)}\n"))
    for line in content["remarks"]:
        print(printable(line))
    if json is not None:
        write_json(Path(json), content)
    if plot is not None:
        draw(columns, Path(plot))
    for file in filter(None, (json, plot)):
        print(f"written: {file}")


def main(called: str = "ernie-m compare") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(compare, called)


if __name__ == "__main__":
    main()
