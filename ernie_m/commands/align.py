"""Align any Hugging Face encoder on sentence pairs of your own: better translations in, the same class out.

    ernie-m align --model intfloat/multilingual-e5-small --pairs en-br.tsv --languages en,br --to aligned
    deepspeed --num_gpus 8 --module ernie_m.commands.align --model FOLDER --pairs a.de+a.en --languages de,en --to aligned

Its folder then holds data (the pairs as token ids, some held out), recipe.yaml (what is trained, chosen by what the encoder
is), run, model (the encoder, in its own class and with its own tokenizer's files) and table.txt: what it found before and
after, on held-out pairs and on the languages that you watch. The same command, given again, goes on where it stopped.
docs/align.md says what to use when, and what it costs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.ranges import Range


def align(
    *overrides: str,
    model: str,
    pairs: str,
    to: str,
    languages: str | None = None,
    text: str | None = None,
    watch: str | None = None,
    held_out: Annotated[float, Range(above=0, most=0.5)] = 0.05,
    passes: Annotated[float, Range(above=0, most=1000)] = 2.0,
    minutes: Annotated[float, Range(above=0, most=1e6)] | None = None,
    keep: Annotated[float, Range(least=0, most=1, zero="the trained weights alone")] | None = None,
    recipe: str | None = None,
    pooling: str | None = None,
    gold: str | None = None,
    head: bool = False,
    local_rank: Annotated[int, Range(least=-1, most=10**6, zero="the first of a host")] = -1,
) -> None:
    """Align an encoder on pairs of sentences; resumes by itself.

    A sentence encoder (e5, LaBSE, BGE-M3; files of sentence-transformers, or no head of masked words) learns to find the
    translation among the other sentences of a row; one that predicts masked words (XLM-R, mBERT, mmBERT) predicts them
    from the translation. What is chosen is printed with the reason.

    Args:
        overrides: any key of the recipe as key.path=value, e.g. optimizer.peak_learning_rate=1e-4
        model: folder or hub id of the encoder; its own tokenizer is used, and stays
        pairs: files with commas between them: TSV (two columns), TMX, an OPUS zip, two files a.de+a.en, or their common
            beginning; .gz and .xz too; of several language pairs de-en=a.tsv,fr-en=b.tsv. Or one folder made by
            `data_prep build` with the encoder's tokenizer
        to: folder for all that is made; the same command goes on in it
        languages: of the two sides, in their order, e.g. de,en, where they are not in front of the file; of a data_prep
            folder they are known
        text: text of one language, a paragraph a line: br=wiki.br.txt, several with commas; for encoders that predict words
        watch: folder with pairs of other languages, NAME.xx-yy.xx and NAME.xx-yy.yy; what becomes of them is told
        held_out: share of the pairs that is measured on, and not trained
        passes: how often each pair is read, on average
        minutes: train no longer than about so many on this machine: a few steps are timed, and the decay of the learning
            rate ends there
        keep: share of the weights before in what is exported: what other languages lost mostly comes back; default: 0.3
            for a sentence encoder, 0 for one that predicts words
        recipe: another than chosen: align, align_text, align_sentences, or a path; what it leaves open is filled in
        pooling: mean or first, if the encoder's files do not say how it is used
        gold: word links made by people, NAME=FILE with commas between, of `source ||| target ||| 0-0 1-2` lines (or tabs):
            the error rate of links from the encoder's states is told, before and after
        head: also export the head of masked words that training added to an encoder which came without one (with --recipe
            align); a head that came with it is always exported
        local_rank: set by the deepspeed launcher
    """
    from ernie_m.aligning.line import Asked, Line
    from ernie_m.base.rank_facts import check_meeting, rank_facts

    facts = rank_facts(os.environ)
    check_meeting(facts, os.environ)  # here: rank 0 prepares for long before all meet
    how = (held_out, passes, minutes, keep, recipe, pooling, overrides, gold, head)
    Line(Asked(model, pairs, languages, text, watch, *how), Path(to), facts, _export).run()


def _export(run: Path, to: Path, data: Path, keep: float, head: bool) -> None:
    from ernie_m.commands.export import export

    export(run=str(run), to=str(to), data=str(data), keep=keep, head=head)


def main(called: str = "ernie-m align") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(align, called)


if __name__ == "__main__":
    main()
