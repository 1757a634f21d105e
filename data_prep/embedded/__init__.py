"""The embedded corpus: text in twelve languages that is generated, not shipped; without limit, and the same every time.

1. `facts`         fact i of seed s, in codes and numbers: clauses such as ("variety", ("de", "CH")), ("months", (8, 9)).
2. `phrases`       the fact in any of `LANGUAGES`, through the localized patterns and names of Unicode CLDR (from Babel).
3. `corpus_files`  monolingual, parallel and held-out files in the layouts of CC-100, OPUS, WikiMatrix, MultiUN and IIT
   Bombay.

    en  Thai (South Korea), 10 quarters ago, January – November, and August – October.
    ru  тайский (Республика Корея), 10 кварталов назад, январь – ноябрь и август – октябрь.
    ja  タイ語 (韓国)、十 四半期前、一月～十一月、八月～十月。

So the whole pipeline, from raw archives to retrieval between languages, runs on a machine that cannot download a corpus.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.embedded.corpus_files import LAYOUTS, sentence, write_embedded_corpus
from data_prep.embedded.phrases import LANGUAGES

__all__ = ["LANGUAGES", "LAYOUTS", "embed", "sentence", "write_embedded_corpus"]


def embed(
    out: str, seed: int = 0, lines: int = 5000, pairs: int = 5000, held_out: int = 500, overwrite: bool = False
) -> None:
    """Write the embedded corpus: real file formats, twelve languages, nothing to download.

    The sentences are lists of dates, quantities, currencies, language and place names, formatted by Unicode CLDR: the same
    facts in every language. They teach a tiny model which words correspond; they are no substitute for natural text.

        python -m data_prep embed --out DIR                           a demo's worth, in seconds
        python -m data_prep embed --out DIR --lines 50000 --seed 1    more text, and other facts

    DIR then holds cc100/ (monolingual), parallel/ (pairs with English in seven layouts), heldout/ (line-aligned pairs that
    occur nowhere in the others: for evaluation only) and catalog.yaml, which lists the training files. The same arguments
    give the same bytes. Needs Babel (pip install babel).

    Args:
        out: folder to write into; made if missing.
        seed: which of the endless corpora to write.
        lines: monolingual sentences a language.
        pairs: sentence pairs a language with English.
        held_out: held-out pairs a language with English.
        overwrite: replace files of other content; without it they are refused, and those of the same content stay.
    """
    sizes = {"lines_per_language": lines, "pairs_per_language": pairs, "held_out_pairs": held_out}
    write_embedded_corpus(Path(out), seed=seed, overwrite=overwrite, **sizes)
    num_pairs = len(LAYOUTS)
    print(
        f"{out}: {lines:,} sentences in each of {len(LANGUAGES)} languages, {pairs:,} pairs and {held_out:,} held-out pairs "
        f"in each of {num_pairs} languages with English; training files listed in {Path(out) / 'catalog.yaml'}"
    )
