"""Translate text, a line a sentence, with a run that was trained to, or with the folder that was exported of it.

    ernie-m translate --model RUN --from fr --to en < in.fr > out.en
    ernie-m translate --model FOLDER --beams 4 --input in.fr --output out.en
    deepspeed --num_gpus 8 launcher/translate.py --model RUN --from fr --to en --input in.fr --output out.en

Lines keep their order, and empty lines stay empty. Of a line that is longer than the model's positions the beginning is
translated, which is told. An output appears whole or not at all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.base.rank_facts import rank_facts

if TYPE_CHECKING:
    from ernie_m.models.beams import Search
    from ernie_m.runs.ranks import Ranks

BEAMS = Range(least=1, most=1000)
PENALTY = Range(least=0, most=100, zero="sums of log probabilities as they are")
LONGEST = Range(least=1, most=2**20)
BATCH_TOKENS = Range(least=1, most=2**24)


def translate(
    *,
    model: str,
    from_: str | None = None,
    to: str | None = None,
    input: str | None = None,
    output: str | None = None,
    data: str | None = None,
    checkpoint: str | None = None,
    beams: Annotated[int, BEAMS] = 1,
    length_penalty: Annotated[float, PENALTY] | None = None,
    longest: Annotated[int, LONGEST] | None = None,
    batch_tokens: Annotated[int, BATCH_TOKENS] = 4096,
    overwrite: bool = False,
    local_rank: Annotated[int, Range(least=-1, most=10**6, zero="the first of a host")] = -1,
) -> None:
    """Translate lines of text.

    Args:
        model: run folder of a training on MT, e.g. by recipe xlm_mt, or what `ernie-m export` made of it
        from_: language of the input, e.g. fr; a folder knows its own
        to: language to translate into, e.g. en; a folder knows its own
        input: file to translate, .gz and .xz too; default: standard input
        output: file to write; default: standard output
        data: data folder of the run, for its tokenizer; default: the one it was started on
        checkpoint: of the run, e.g. step_00001000, 1000 or best; default: the newest
        beams: width of the search; 1 is greedy
        length_penalty: with beams, exponent of a translation's length, by which the sum of its log probabilities is divided;
            default: 1
        longest: most tokens of a translation, as the model has positions; default: 1.5 n + 10, n of its source
        batch_tokens: tokens of the sentences that are translated together, padding and beams included
        overwrite: replace an output that is already there
        local_rank: set by the deepspeed launcher
    """
    from ernie_m.base.files import refuse_existing, require_folder_of, written_atomically
    from ernie_m.corpus.texts import lines_of, read_lines
    from ernie_m.interop.open_translator import open_translator
    from ernie_m.runs.ranks import this_device
    from ernie_m.training.engine import start_ranks
    from ernie_m.translation.lines import Share, Translator

    if output is not None:
        require_folder_of("--output", Path(output))
        refuse_existing("--output", Path(output), overwrite=overwrite)
        if input is not None and Path(input).resolve() == Path(output).resolve():
            raise InputError(f"--output {output}: is --input itself, which would be lost; give another file")
    facts = rank_facts(os.environ)
    # A Slurm batch script has srun's variables too, of one task; deepspeed and torchrun write to standard output themselves.
    is_launched = facts.world_size > 1 or (facts.launcher is not None and facts.launcher.brings == "address")
    if is_launched and output is None:
        raise InputError("--output is missing: a launcher's processes share its standard output; name a file")
    for option, given, stream in (("input", input, sys.stdin), ("output", output, sys.stdout)):
        if given is None and stream is None:  # Python's name for one that the shell closed
            raise InputError(f"--{option} is missing: the standard {option} is closed; name a file")
    search = search_of(beams, length_penalty)
    ranks: Ranks | None = start_ranks() if is_launched else None
    opened = open_translator(model, data, checkpoint, ranks.device if ranks else this_device())
    languages = opened.numbers(from_, to)
    longest = opened.checked_longest(longest)
    lines = None
    if ranks is None or ranks.is_first:
        lines = read_lines(Path(input)) if input else lines_of(sys.stdin.buffer.read(), "standard input")
    lines = ranks.from_first(lines) if ranks else lines
    share = Share(ranks.rank, ranks.world_size, ranks.gather) if ranks else Share()
    translator = Translator(opened.model, opened.vocabulary, languages, opened.positions, batch_tokens, search, longest)
    text = "".join(f"{line}\n" for line in translator.lines(lines or [], share))
    if output is None:
        sys.stdout.write(text)
    elif ranks is None or ranks.is_first:
        with written_atomically(Path(output)) as aside:
            aside.write_text(text, encoding="utf-8")
    if ranks:
        ranks.close()


def search_of(beams: int, length_penalty: float | None) -> Search:
    """The search that these options ask for. Raises InputError for a penalty without beams: one alone is never compared."""
    from ernie_m.models.beams import Search

    if length_penalty is None:
        return Search(beams)
    if beams == 1:
        raise InputError(
            f"--length_penalty {length_penalty}: nothing is compared with one beam; leave it out, or give --beams from 2 on"
        )
    return Search(beams, length_penalty)


def main(called: str = "ernie-m translate") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(translate, called)


if __name__ == "__main__":
    main()
