"""The commands about word links, `align` and `alignments`: methods of data_prep's `Commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from data_prep.options import named_files
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range


def align(
    self: object,
    *,
    data: str,
    symmetrization: str = "intersection",
    pharaoh: str | None = None,
    units: str | None = None,
    export: str | None = None,
    iterations: Annotated[int, Range(least=2, most=100)] = 5,
    train_pairs: Annotated[int, Range(least=1, most=10**8)] = 1_000_000,
    seed: Annotated[int, Range(least=0, most=2**31 - 1, zero="a seed like others")] = 0,
    engine: str = "auto",
    workers: Annotated[int, Range(least=1, most=4096)] | None = None,
    overwrite: bool = False,
) -> None:
    """Add word links to a built folder: which token of each pair translates which. Shards keep their bytes.

    The aligner is fast_align's model on the folder's own token ids, both ways. It learns from train_pairs pairs of
    each pair of languages at most, then links all. Other aligners' links are taken as files:

        python -m data_prep align --data data/ --export text/
        fast_align -i text/tatoeba.de-en.txt -d -o -v > links.txt          (or any other that writes 0-0 1-2 ...)
        python -m data_prep align --data data/ --pharaoh tatoeba.de-en=links.txt

    Stopped in any way, the same command goes on where it was; the same input gives the same bytes, on any number of
    ranks. manifest.json changes, so a run that was started before does not go on with this folder.

    Args:
        data: folder made by `build`.
        symmetrization: of the two directions: intersection (fewest, most precise), grow-diag-final-and or union.
        pharaoh: CORPUS=FILE,CORPUS=FILE: links of these corpora, a line for each row in the order of --export.
        units: what --pharaoh counts and --export writes: words (between white space; unknown for WordPiece;
            the default) or tokens.
        export: only write the text of each corpus of pairs to this folder, as `source ||| target`; tokens as their ids.
        iterations: passes over the training pairs, the one that makes the links included.
        train_pairs: most pairs to learn from; also held to 268 million cells (n * m a pair), so that memory has a limit.
        seed: of the choice of those pairs.
        engine: auto, numba (compiled; pip install numba) or numpy; the links are the same.
        workers: processes on this machine (default 1); or start it by mpirun, as build.
        overwrite: make links anew where the folder has some; with --export, replace its files.
    """
    from data_prep.launched_ranks import start_ranks
    from data_prep.word_alignment import folder, link_files
    from data_prep.word_alignment.model import Settings
    from data_prep.word_alignment.tasks import Method
    from ernie_m.corpus.folder import Manifest

    if units is not None and export is None and pharaoh is None:
        raise InputError(f"align: --units {units}: expected with --pharaoh or --export alone")
    counted = link_files.WORDS if units is None else units
    if export is not None:
        if pharaoh is not None:
            raise InputError("align: expected one of --export, for another aligner, and --pharaoh, of what it wrote")
        manifest = Manifest.read(Path(data))
        corpora = folder.parallel_corpora(Path(data), manifest)
        tokenizer = Path(data) / manifest.tokenizer_file
        for path in link_files.export(Path(data), corpora, tokenizer, Path(export), counted, overwrite):
            print(path)
        return
    files = named_files("pharaoh", pharaoh)
    method = Method(symmetrization, Settings(iterations), train_pairs, seed)
    options = folder.Options(method, files, counted, engine, overwrite)
    folder.align(Path(data), options, start_ranks(workers))


def alignments(
    self: object,
    *,
    gold: str,
    links: str | None = None,
    data: str | None = None,
    corpus: str | None = None,
    form: str = "auto",
    first_index: Annotated[int, Range(least=0, most=1, zero="counted from 0")] | None = None,
    links_first_index: Annotated[int, Range(least=0, most=1, zero="counted from 0")] | None = None,
) -> None:
    """Print precision, recall and alignment error rate of word links against gold.

    The links are a Pharaoh file with a line for each pair of the gold, or those of a corpus in a data folder that was
    built of the gold's text (held_out: 0). Its links are between tokens; two words are linked where two of their tokens
    are.

    Args:
        gold: Pharaoh (0-0 1p2), `source ||| target ||| links` (or tabs), or WPT (pair source target S|P).
        links: Pharaoh file; either this, or data and corpus.
        data: folder with links.
        corpus: its corpus whose rows are the pairs of the gold, in their order.
        form: of the gold: auto, pharaoh, text or wpt.
        first_index: what the gold counts from (default: 0, WPT 1).
        links_first_index: what --links counts from (default: 0).
    """
    from data_prep.word_alignment.scoring import folder_links, pharaoh_links, scored
    from ernie_m.corpus.word_links import read_gold

    pairs = read_gold(Path(gold), form, first_index)
    if (links is None) == (data is None) or (data is None) != (corpus is None):
        raise InputError("alignments: give either --links, or --data and --corpus")
    if links is None and links_first_index is not None:
        raise InputError(f"--links_first_index {links_first_index}: expected with --links alone")
    if links is not None:
        print(scored(pharaoh_links(Path(links), links_first_index), pairs, links, gold).shown)
    else:
        assert data is not None
        assert corpus is not None
        print(scored(folder_links(Path(data), corpus), pairs, f"{data}: {corpus}", gold).shown)
