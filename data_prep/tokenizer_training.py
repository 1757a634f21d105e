"""A SentencePiece model of the catalog's text, with XLM-R's layout: <unk> <s> </s> in front, nmt_nfkc, 99.95 % coverage.

1. The clean lines of each language are counted.
2. `max_sentences` (at most: all lines) are shared out with p proportional to n ** alpha, so that small languages are
   heard; a share below the language's lines is a random choice of them, above it every line comes more than once.
3. The lines are read again and streamed into the trainer, which sees neither paths nor times: same input, same bytes.
4. The trainer holds the chosen sentences alone and works in about 20 times their bytes (0.3 GB for 14 MB), however large
   the corpora are. How far it is it does not say; a line every minute says that it is at work.

So the corpora are read twice, by one process: days for terabytes. A catalog with a part of each language serves as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from data_prep.catalog import Corpus, read_catalog
from data_prep.clean import usable
from data_prep.readers import first_chunk, input_bytes, named
from ernie_m.base.console import InputError, Progress, duration
from ernie_m.base.files import refuse_existing, require_folder_of, written_atomically
from ernie_m.base.sampling import apportion, smoothed
from ernie_m.base.special_tokens import vocab_size_of
from ernie_m.corpus.vocabulary import Vocabulary

MODEL_TYPES = {"unigram": 250_002, "bpe": 60_000}
"""Kinds of SentencePiece models, and the size of vocabulary for each: XLM-R's, and XLM's for a pair of languages."""
MAX_SENTENCES = 1_000_000
CHARACTER_COVERAGE = 0.9995
NUM_THREADS = 16  # fixed, since the trainer's sums depend on it
MODEL_ONLY_PIECES = vocab_size_of(0)  # <pad> and <mask>
MOST_BYTES_A_CHARACTER = 4  # in UTF-8
SECONDS_BETWEEN_SIGNS = 60.0


def train_tokenizer(
    catalog: Path,
    out: Path,
    vocab_size: int | None = None,
    model_type: str = "unigram",
    alpha: float = 0.3,
    max_sentences: int = MAX_SENTENCES,
    seed: int = 0,
    character_coverage: float = CHARACTER_COVERAGE,
    overwrite: bool = False,
) -> Vocabulary:
    """Train, write `out` atomically and return it; raises InputError when the text cannot give such a vocabulary.

    `vocab_size`: None takes that of MODEL_TYPES. A file that is there already is replaced only with `overwrite`.
    """
    if model_type not in MODEL_TYPES:
        raise InputError(f"--model_type {model_type}: expected one of {', '.join(MODEL_TYPES)}")
    vocab_size = vocab_size or MODEL_TYPES[model_type]
    if vocab_size <= vocab_size_of(3):
        raise InputError(f"--vocab_size {vocab_size}: expected more than the {vocab_size_of(3)} special tokens")
    _refuse_unwritable(out, overwrite)
    corpora = read_catalog(catalog)
    for corpus in corpora:  # a wrong path is known at once
        first_chunk(corpus)
    counts = count_lines(corpora)
    quotas = share_out(counts, alpha, max_sentences)
    print(f"sentences per language: {', '.join(f'{k} {quotas[k]:,} of {counts[k]:,}' for k in quotas)}", file=sys.stderr)
    longest = MOST_BYTES_A_CHARACTER * max(corpus.max_characters for corpus in corpora)
    sentences = chosen_lines(corpora, counts, quotas, seed)
    with _signs_of_life(f"SentencePiece works on {sum(quotas.values()):,} sentences"):
        model = _trained(sentences, vocab_size, model_type, character_coverage, longest)
    with written_atomically(out) as aside:
        aside.write_bytes(model)
    return Vocabulary(out)


def _refuse_unwritable(out: Path, overwrite: bool) -> None:
    """Known now, not after hours of training."""
    require_folder_of("--out", out)
    refuse_existing("--out", out, overwrite=overwrite)
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: the folder {out.parent} is not writable; give another one")


def clean_lines(corpora: list[Corpus], what: str) -> Iterator[tuple[str, str]]:
    """(language, text) of every usable line and side, with progress on the terminal."""
    progress = Progress(what, sum(map(input_bytes, corpora)), "bytes")
    for corpus in corpora:
        with named(corpus):
            for texts in usable(corpus, progress.advance):
                yield from zip(corpus.languages, texts, strict=True)
    progress.close()


def count_lines(corpora: list[Corpus]) -> dict[str, int]:
    """Usable lines of each language, sorted by language; raises InputError when there are none."""
    counts = Counter(language for language, _ in clean_lines(corpora, "count lines"))
    if not counts:
        raise InputError("the corpora of the catalog hold no usable line; expected text to train a tokenizer on")
    return dict(sorted(counts.items()))


def share_out(counts: dict[str, int], alpha: float, max_sentences: int) -> dict[str, int]:
    """How many sentences each language gives."""
    if max_sentences < len(counts):
        raise InputError(f"--max_sentences {max_sentences}: expected at least one for each of the {len(counts)} languages")
    total = min(max_sentences, sum(counts.values()))
    return dict(zip(counts, apportion(smoothed(list(counts.values()), alpha), total), strict=True))


def chosen_lines(corpora: list[Corpus], counts: dict[str, int], quotas: dict[str, int], seed: int) -> Iterator[str]:
    """Exactly quotas[language] lines of each language, in the order of the files (Knuth's selection sampling)."""
    draws = {language: random.Random(f"{seed} {language}") for language in counts}
    left = dict(counts)
    missing = {language: quotas[language] % counts[language] for language in counts}
    for language, text in clean_lines(corpora, "train"):
        is_chosen = draws[language].random() * left[language] < missing[language]
        left[language] -= 1
        missing[language] -= is_chosen
        for _ in range(quotas[language] // counts[language] + is_chosen):
            yield text


@contextlib.contextmanager
def _signs_of_life(what: str) -> Iterator[None]:
    """Say now and then that the block still runs: SentencePiece tells nothing of its progress, and frees the GIL."""
    started, is_over = time.monotonic(), threading.Event()

    def speak() -> None:
        while not is_over.wait(SECONDS_BETWEEN_SIGNS):
            print(f"{what}: {duration(time.monotonic() - started)} so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _trained(
    sentences: Iterator[str], vocab_size: int, model_type: str, character_coverage: float, most_bytes: int
) -> bytes:
    """The model file's content; a sentence above `most_bytes` would be dropped in silence, so none may be."""
    model = io.BytesIO()
    failure: list[InputError] = []

    def guarded() -> Iterator[str]:
        try:
            yield from sentences
        except InputError as error:  # the trainer would bury it in a RuntimeError of its own
            failure.append(error)

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=guarded(),
            model_writer=model,
            vocab_size=vocab_size - MODEL_ONLY_PIECES,
            model_type=model_type,
            character_coverage=character_coverage,
            normalization_rule_name="nmt_nfkc",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            max_sentence_length=most_bytes,
            num_threads=NUM_THREADS,
            minloglevel=3,
        )
    except RuntimeError as error:
        if not failure:
            raise _explained(str(error), vocab_size) from None
    if failure:
        raise failure[0]
    return model.getvalue()


def _explained(message: str, vocab_size: int) -> InputError:
    if most := re.search(r"value <= (\d+)", message):
        allowed = int(most[1]) + MODEL_ONLY_PIECES
        return InputError(f"--vocab_size {vocab_size}: too large for this text; the largest it allows is {allowed}")
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        needed = int(least[1]) + MODEL_ONLY_PIECES
        return InputError(
            f"--vocab_size {vocab_size}: too small for the characters of this text; give at least {needed} "
            "or a lower --character_coverage"
        )
    return InputError(f"SentencePiece cannot train on this text: {message}")
