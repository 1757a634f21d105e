"""`python -m data_prep <command>`: from raw corpora to verified token shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ernie_m.command_line import run
from ernie_m.console import InputError


class Commands:
    """From raw corpora (CC-100, OPUS, TMX, WikiMatrix, MultiUN, IIT Bombay, TSV) to token shards for training.

    The usual order:

        python -m data_prep train-tokenizer --catalog my.yaml --out spm.model --vocab_size 32000
        python -m data_prep build  --catalog my.yaml --tokenizer spm.model --out data/
        python -m data_prep verify --data data/
        python -m data_prep stats  --data data/

    To start from XLM-R take its own sentencepiece.bpe.model as the tokenizer and leave out the first step.
    The catalog names the corpora: data_prep/example_catalog.yaml shows every format; docs/data_format.md explains it.
    """

    def embed(self, *, out: str, seed: int = 0, lines: int = 5000, pairs: int = 5000, held_out: int = 500) -> None:
        """Generate the embedded corpus: true sentences from CLDR, parallel in 12 languages, in the formats users have.

        Needs Babel (pip install babel). The same seed gives the same bytes; there is no limit to the size.

        Args:
            out: folder to write: cc100/, parallel/, heldout/ (line-aligned, nowhere in the rest) and catalog.yaml.
            seed: of the facts.
            lines: monolingual lines a language.
            pairs: translation pairs of each language with English.
            held_out: held-out pairs of each language with English.
        """
        from data_prep.embedded import embed

        embed(out, seed, lines, pairs, held_out)

    def build(
        self, *, catalog: str, tokenizer: str, out: str, rows_per_shard: int = 1_000_000, overwrite: bool = False
    ) -> None:
        """Read, clean and tokenize every corpus of a catalog into Arrow shards and a manifest.

        The manifest is written last: a folder without it is not finished, and building into it again starts over.
        The same input, tokenizer and versions give the same bytes.

        Args:
            catalog: YAML file with the corpora; its paths are relative to its own folder.
            tokenizer: SentencePiece model: XLM-R's sentencepiece.bpe.model or one of train-tokenizer.
            out: folder to write; must be new, empty, or left by an interrupted build.
            rows_per_shard: rows of a shard file; one is kept in memory (it also closes at 64M tokens).
            overwrite: replace a finished build in `out`.
        """
        from data_prep.build import build

        _require_int("rows_per_shard", rows_per_shard, 1)
        build(Path(catalog), Path(tokenizer), Path(out), rows_per_shard, _flag("overwrite", overwrite))

    def verify(self, *, data: str, tokenizer: str | None = None) -> None:
        """Check a built folder: hashes of all files, tokenizer, schema, row and token counts, ids within the vocabulary.

        Prints one line per failure and exits with 2 when there is any.

        Args:
            data: folder made by `build`.
            tokenizer: SentencePiece model that you mean to use; refused when it is not the one of the shards.
        """
        from data_prep.verify import verify

        failures = verify(Path(data), None if tokenizer is None else Path(tokenizer))
        for failure in failures:
            print("error: " + " ".join(failure.split()), file=sys.stderr)
        if failures:
            raise SystemExit(2)
        print(f"{data}: all files are whole and as the manifest says")

    def stats(self, *, data: str, alpha: float = 0.3) -> None:
        """Show rows, tokens, mean length and share of each language and pair, and how often training draws it.

        Args:
            data: folder made by `build`.
            alpha: exponent of language sampling, p ~ tokens ** alpha: 1 keeps the shares, 0 levels them.
        """
        from data_prep.stats import stats

        print(stats(Path(data), _number("alpha", alpha, 0, 1)))

    def train_tokenizer(
        self,
        *,
        catalog: str,
        out: str,
        vocab_size: int,
        model_type: str = "unigram",
        alpha: float = 0.3,
        max_sentences: int = 1_000_000,
        seed: int = 0,
        character_coverage: float = 0.9995,
    ) -> None:
        """Train a SentencePiece model with XLM-R's layout on a smoothed sample of the catalog's text.

        The same input and options give the same bytes.

        Args:
            catalog: YAML file with the corpora, as for `build`.
            out: model file to write, e.g. spm.model.
            vocab_size: size of the model's vocabulary: SentencePiece's pieces + 2 (<pad> and <mask>).
            model_type: unigram (as XLM-R) or bpe.
            alpha: exponent of language sampling, p ~ lines ** alpha.
            max_sentences: sentences to train on, of all languages together.
            seed: of the random choice of sentences.
            character_coverage: share of the text's characters that get a piece; the rest becomes <unk>.
        """
        from data_prep.tokenizer_training import train_tokenizer

        vocabulary = train_tokenizer(
            Path(catalog),
            Path(out),
            _require_int("vocab_size", vocab_size, 1),
            model_type,
            _number("alpha", alpha, 0, 1),
            _require_int("max_sentences", max_sentences, 1),
            _require_int("seed", seed, 0),
            _number("character_coverage", character_coverage, 0.9, 1),
        )
        print(f"{out}: a vocabulary of {vocabulary.size:,}, SHA-256 {vocabulary.fingerprint}")


def _require_int(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"--{name} {value}: expected a whole number from {least}")
    return value


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InputError(f"--{name} {value}: expected a number from {least} to {most}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"--{name} {value}: expected --{name} or --no{name} without a value")
    return value


def main() -> None:
    """Entry point."""
    run(Commands, "data_prep")


if __name__ == "__main__":
    main()
