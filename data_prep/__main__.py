"""`python -m data_prep <command>`: from raw corpora to verified token shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from data_prep import raw_text_commands, show_command
from data_prep.options import patterns
from data_prep.word_alignment import commands
from ernie_m.base.command_line import run
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range


class Commands:
    """From raw corpora (CC-100, OPUS, TMX, WikiMatrix, MultiUN, IIT Bombay, TSV, JSON lines, Parquet) to token shards.

    The usual order:

        python -m data_prep fetch  --corpus cc100 --lang sw,am --to raw/
        python -m data_prep train-tokenizer --catalog my.yaml --out spm.model --vocab_size 32000
        python -m data_prep build  --catalog my.yaml --tokenizer spm.model --out data/
        python -m data_prep verify --data data/
        python -m data_prep stats  --data data/
        python -m data_prep align  --data data/        only for objectives that ask for word links (AlignLM)

    To start from XLM-R take its own sentencepiece.bpe.model as the tokenizer, for another encoder its Hugging Face folder,
    and leave out `train-tokenizer`.
    The catalog names the corpora: data_prep/example_catalog.yaml shows every format; docs/data_format.md explains it.
    """

    embed = raw_text_commands.embed
    fetch = raw_text_commands.fetch
    hold_out = raw_text_commands.hold_out

    def build(
        self,
        *,
        catalog: str,
        tokenizer: str,
        out: str,
        workers: Annotated[int, Range(least=1, most=4096)] | None = None,
        shard_mb: Annotated[int, Range(least=1, most=256)] = 16,
        on_error: str = "stop",
        overwrite: bool = False,
        estimate: bool = False,
        skip_space_check: bool = False,
        allow_unknown: bool = False,
        tokenizer_sha256: str | None = None,
        grow_from: str | None = None,
        exclude: str | None = None,
    ) -> None:
        """Read, clean and tokenize every corpus of a catalog into Arrow shards and a manifest.

        On one machine with --workers N; on many hosts as ranks of an MPI job, with the same hostfile as training:

            mpirun --hostfile hostfiles/v100x64 -n 64 python -m data_prep build --catalog my.yaml ...

        However it was stopped, the same command continues. The manifest is written last: a folder without it is not
        finished. The same input, tokenizer and versions give the same bytes, on any number of ranks.

        Args:
            catalog: YAML file with the corpora; its paths are relative to its own folder.
            tokenizer: SentencePiece model (XLM-R's sentencepiece.bpe.model, or one of train-tokenizer), or any encoder's of
                Hugging Face: its folder, its tokenizer.json, or a hub id that is in the local cache.
            out: folder to write; must be new, empty, or left by an interrupted build. With MPI: on a shared disk.
            workers: processes on this machine (default 1; not with mpirun).
            shard_mb: plain text of a shard, in MiB; also the unit of work: a few of them are in memory at a time.
            on_error: stop at the first corpus that cannot be used; or quarantine: leave it out, print why, and go on.
            overwrite: replace a finished build, or an unfinished one of another plan, in `out`.
            estimate: say what the build would take (disk, time), from a sample of each corpus, and write nothing.
            skip_space_check: start although the shards seem not to fit on the disk.
            allow_unknown: take text of which more than a fifth of the pieces are unknown to the tokenizer; else it cannot
                be used.
            tokenizer_sha256: beginning of the SHA-256 that the tokenizer must have.
            grow_from: a finished folder. What stays the same of it gets a second name in `out` (hard links) and is not built
                again; it is not changed. Says what is kept, added, built again and removed; with --estimate only that.
            exclude: evaluation sets, files or globs with commas between them, whose sentences are kept out of all corpora,
                beside those of the catalog's `exclude`.
        """
        from data_prep import build as building
        from data_prep.job import QUARANTINE, STOP
        from data_prep.launched_ranks import start_ranks

        if on_error not in (STOP, QUARANTINE):
            raise InputError(f"--on_error {on_error}: expected {STOP} or {QUARANTINE}")
        options = building.Options(
            chunk_bytes=shard_mb << 20,
            overwrite=overwrite,
            on_error=on_error,
            skip_space_check=skip_space_check,
            allow_unknown=allow_unknown,
            tokenizer_sha256=tokenizer_sha256,
            grow_from=None if grow_from is None else Path(grow_from),
            exclude=patterns("exclude", exclude),
        )
        ranks = start_ranks(workers)
        work = building.show_estimate if estimate else building.build
        work(Path(catalog), Path(tokenizer), Path(out), options, ranks)

    def verify(
        self, *, data: str, tokenizer: str | None = None, workers: Annotated[int, Range(least=1, most=4096)] | None = None
    ) -> None:
        """Check a built folder: hashes of all files, tokenizer, schema, row and token counts, ids within the vocabulary.

        Prints one line per failure and exits with 2 when there is any.

        Args:
            data: folder made by `build`.
            tokenizer: the one that you mean to use; refused when it is not the one of the shards.
            workers: processes on this machine (default 1); or start it by mpirun, as build.
        """
        from data_prep.launched_ranks import start_ranks
        from data_prep.verify import verify

        ranks = start_ranks(workers)
        failures = verify(Path(data), None if tokenizer is None else Path(tokenizer), ranks)
        for failure in failures:
            print("error: " + " ".join(failure.split()), file=sys.stderr)
        if failures:
            raise SystemExit(2)
        if ranks.rank == 0:
            print(f"{data}: all files are whole and as the manifest says")

    def stats(
        self,
        *,
        data: str,
        alpha: Annotated[float, Range(least=0, most=1, zero="all languages alike")] = 0.3,
        steps: Annotated[int, Range(least=1, most=10**9)] | None = None,
        rows_per_step: Annotated[int, Range(least=1, most=2**18)] | None = None,
        sequence_length: Annotated[int, Range(least=16, most=2**16)] | None = None,
        parallel_share: Annotated[float, Range(least=0, most=1, zero="no pairs")] | None = None,
        json: str | None = None,
        plot: str | None = None,
        html: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Show rows, tokens and share of each language and pair, how often training draws it, and how often it repeats it.

        With --steps also the tokens drawn of each and its repeats: how many times each of its sentences is seen. Give what
        the recipe says, e.g. for `base`:

            python -m data_prep stats --data data/ --steps 200000 --rows_per_step 2048 --sequence_length 512

        A row carries sequence_length positions, nearly all of them text. More than 4 repeats are marked: up to 4 epochs are
        nearly as good as fresh text (Muennighoff et al. 2023). CAMLM and BTMLM draw up to 15 % less than is shown.

        Args:
            data: folder made by `build`.
            alpha: exponent of language sampling, p ~ tokens ** alpha: 1 keeps the shares, 0 levels them.
            steps: planned length of training; without it no repeats are shown.
            rows_per_step: rows of a step on all devices together (batch.rows_per_step of the recipe; default: 2048).
            sequence_length: positions of a row (data.sequence_length of the recipe; default: 512).
            parallel_share: part of the rows that are pairs (TLM, CAMLM); default 2/3, equal batches of MMLM, TLM and CAMLM.
            json: file to write the numbers to.
            plot: PNG file to draw shares, p and repeats into.
            html: page to write: all of it, and what was left out of each corpus and why, with its first lines ('.[show]').
            overwrite: replace files that are already there.
        """
        from data_prep.stats import DrawPlan
        from data_prep.stats_report import stats

        options = {"rows_per_step": rows_per_step, "sequence_length": sequence_length, "parallel_share": parallel_share}
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        if steps is None and given:
            raise InputError(f"--{next(iter(given))}: expected with --steps alone, the planned length of training")
        plan = None if steps is None else DrawPlan(steps, **given)
        numbers, picture, page = (None if name is None else Path(name) for name in (json, plot, html))
        print(stats(Path(data), alpha, plan, numbers, picture, page, overwrite))

    show = show_command.show
    align = commands.align
    alignments = commands.alignments

    def train_tokenizer(
        self,
        *,
        catalog: str,
        out: str,
        vocab_size: Annotated[int, Range(least=1, most=2**24)] | None = None,
        model_type: str = "unigram",
        alpha: Annotated[float, Range(least=0, most=1, zero="all languages alike")] = 0.3,
        max_sentences: Annotated[int, Range(least=1, most=10**9)] = 1_000_000,
        seed: Annotated[int, Range(least=0, most=2**31 - 1, zero="a seed like others")] = 0,
        character_coverage: Annotated[float, Range(least=0.9, most=1)] = 0.9995,
        overwrite: bool = False,
    ) -> None:
        """Train a SentencePiece model with XLM-R's layout on a smoothed sample of the catalog's text.

        The same input and options give the same bytes. The corpora are read twice (counted, then sampled) by one process;
        memory depends on max_sentences alone.

        Args:
            catalog: YAML file with the corpora, as for `build`.
            out: model file to write, e.g. spm.model.
            vocab_size: size of the model's vocabulary: SentencePiece's pieces + 2 (<pad> and <mask>); default: 250,002
                (unigram), 60,000 (bpe).
            model_type: unigram (as XLM-R) or bpe (as XLM: one for all languages).
            alpha: exponent of language sampling, p ~ lines ** alpha.
            max_sentences: sentences to train on, of all languages together.
            seed: of the random choice of sentences.
            character_coverage: share of the text's characters that get a piece; the rest becomes <unk>.
            overwrite: replace a file that is already there.
        """
        from data_prep.tokenizer_training import train_tokenizer

        vocabulary = train_tokenizer(
            Path(catalog),
            Path(out),
            vocab_size,
            model_type,
            alpha,
            max_sentences,
            seed,
            character_coverage,
            overwrite,
        )
        print(f"{out}: a vocabulary of {vocabulary.size:,}, SHA-256 {vocabulary.fingerprint}")


def main(called: str = "data_prep") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run(Commands, called)


if __name__ == "__main__":
    main()
