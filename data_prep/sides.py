"""The two sides of translation pairs, each as text of one language.

For comparisons in which all models read the same sentences, but only some of them read pairs:

    python -m data_prep.sides --catalog my.yaml --to sides/

For each corpus of pairs `name`, a file `name.LANGUAGE.txt` a side in CC-100's layout: a blank line behind each sentence, so
that each is a document of its own. Pairs held out by the catalog are left out.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from data_prep.catalog import Corpus, read_catalog
from data_prep.clean import reasons_told, split_of, usable
from data_prep.readers import input_bytes, named
from ernie_m.base.command_line import run
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import refuse_existing, written_atomically
from ernie_m.corpus.folder import TRAIN


def side_files(corpus: Corpus, to: Path) -> list[Path]:
    """The file of each side, in the catalog's order of languages."""
    return [to / f"{corpus.name}.{language}.txt" for language in corpus.languages]


def sides(*, catalog: str, to: str, overwrite: bool = False) -> None:
    """Write each side of the catalog's pairs as text of its language.

    Args:
        catalog: YAML file with the corpora; those of one language are passed over
        to: folder for the files; made if it does not exist
        overwrite: replace files that are already there
    """
    corpora = [corpus for corpus in read_catalog(Path(catalog)) if len(corpus.languages) == 2]
    if not corpora:
        raise InputError(f"{catalog}: no corpus of pairs; expected at least one, e.g. of format moses")
    files = [path for corpus in corpora for path in side_files(corpus, Path(to))]
    refuse_existing("--to", *files, overwrite=overwrite)
    Path(to).mkdir(parents=True, exist_ok=True)
    progress = Progress("sides", sum(map(input_bytes, corpora)), "bytes")
    for corpus in corpora:
        with named(corpus):
            left_out = Counter[str]()
            count = write_sides(corpus, Path(to), progress, left_out)
        told = f"; left out: {reasons_told(left_out)}" if left_out else ""
        print(f"{corpus.name}: {count:,} sentences a side{told}")
    progress.close()


def write_sides(corpus: Corpus, to: Path, progress: Progress, left_out: Counter[str] | None = None) -> int:
    """Write both sides of one corpus; returns the number of pairs. `left_out` is told why others were left out."""
    by_name = sorted(range(2), key=lambda side: corpus.languages[side])  # whose text decides what is held out
    count = 0
    with contextlib.ExitStack() as stack:
        asides = [stack.enter_context(written_atomically(path)) for path in side_files(corpus, to)]
        files = [stack.enter_context(open(path, "w", encoding="utf-8", newline="\n")) for path in asides]
        for texts in usable(corpus, progress.advance, left_out):
            if split_of(texts[by_name[0]], corpus.held_out) != TRAIN:
                continue
            for file, text in zip(files, texts, strict=True):
                file.write(" ".join(text.split("\n")) + "\n\n")
            count += 1
    return count


if __name__ == "__main__":
    run(sides, "data_prep.sides")
