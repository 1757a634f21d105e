"""`python build_worker.py CATALOG TOKENIZER OUT WORKERS CHUNK_BYTES [GROW_FROM]`: a build of small chunks, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.build import Options, build
from data_prep.launched_ranks import start_ranks
from ernie_m.base.console import run_cleanly


def main() -> None:
    catalog, tokenizer, out = map(Path, sys.argv[1:4])
    workers, chunk_bytes = map(int, sys.argv[4:6])
    grow_from = Path(sys.argv[6]) if len(sys.argv) > 6 else None
    options = Options(chunk_bytes=chunk_bytes, skip_space_check=True, grow_from=grow_from)
    run_cleanly(lambda: build(catalog, tokenizer, out, options, start_ranks(workers or None)))


if __name__ == "__main__":
    main()
