"""How full are the rows of every objective on this data, at every length?

    python -m data_prep build --catalog my.yaml --tokenizer sentencepiece.bpe.model --out DATA
    python benchmarks/fill.py --data DATA [--lengths 64,128,256,512]

Prints, for each length, objective and stream: rows of an epoch, share of positions that are not padding, rows without a
token, share of the tokens that an epoch uses. Exits with 1 when a row is empty or, from length 128 on, fill is below 97 %.
"""

from __future__ import annotations

import argparse

import numpy as np

from ernie_m.base.table import table
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.rows.row_source import RowSettings, RowSource

LEAST_FILL, FROM_LENGTH = 0.97, 128


def measured(source: RowSource) -> tuple[float, int, float]:
    """Fill, rows without a token and share of the tokens used, of one epoch."""
    _corruption, positions, empty, tokens = source.settings.corruption, 0, 0, 0
    for index in range(source.rows_per_epoch):
        location = source._location(index)
        lengths_EC = (location.stops_EC - location.starts_EC).astype(np.int64)
        positions += int(np.sum(source.layout.length(*lengths_EC.T)))
        tokens += int(lengths_EC.sum())
        empty += lengths_EC.size == 0
    fill = positions / (source.rows_per_epoch * source.settings.sequence_length)
    return fill, empty, tokens / source.stream.num_tokens


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--lengths", default="64,128,256,512")
    options = parser.parse_args()
    folder, rows, is_good = CorpusFolder(options.data), [], True
    for length in map(int, options.lengths.split(",")):
        settings = RowSettings(length, folder.manifest.specials, CorruptionConfig(), 0)
        for objective in OBJECTIVES.values():
            for stream in folder.parallel() if objective.num_given == 2 else folder.monolingual():
                source = RowSource(objective, stream, folder.language_ids, settings, (1,))
                fill, empty, used = measured(source)
                is_good &= empty == 0 and (fill >= LEAST_FILL or length < FROM_LENGTH)
                numbers = [f"{source.rows_per_epoch:,}", f"{100 * fill:.1f} %", str(empty), f"{100 * used:.2f} %"]
                rows.append([str(length), objective.name, stream.name, *numbers])
    print(table(["length", "objective", "stream", "rows", "fill", "empty", "tokens used"], rows))
    raise SystemExit(0 if is_good else 1)


if __name__ == "__main__":
    main()
