"""Repeat a committed result in about ten minutes of two cores, and say whether the order of its variants holds here too.

    python benchmarks/results_quick.py --to quick        (`make results-quick`)

1. LibreOffice's text in German, French and Russian, from Debian's packages (a catalog that was fetched before: --source).
2. `ernie-m ablate transfer`: MMLM, + TLM, + CAMLM, one seed of each, 2 layers of 64, for 3,000 steps.
3. `results_hold`: their figures beside those in docs/results/quick.yaml.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from results_hold import results_hold

from ernie_m.base.command_line import run as run_command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "quick.yaml"
LANGUAGES = "de,fr,ru"
OPTIONS = (
    *("--recipe", "learning", "--only", "mmlm,tlm,camlm", "--seeds", "1", "--jobs", "2", "--steps", "3000"),
    *("--vocab_size", "8000", "--pairs", "100", "output.keep_every=3000", "output.save_every=3000"),
    *("optimizer.warmup_steps=75", "model.num_layers=2", "model.hidden_size=64", "model.num_heads=2", "model.ffn_size=256"),
)


def results_quick(*, to: str = "quick", source: str | None = None) -> None:
    """Fetch, train, compare.

    Args:
        to: folder for everything; the same one again goes on
        source: folder of a catalog that was fetched before, instead of fetching one
    """
    folder = Path(to).resolve()
    fetched = Path(source).resolve() if source else folder / "fetched"
    if source is None:
        _run("-m", "data_prep", "fetch", "--corpus", "libreoffice", "--lang", LANGUAGES, "--to", fetched)
    _run("-m", "ernie_m", "ablate", "transfer", "--source", fetched, "--to", folder / "runs", *OPTIONS)
    results_hold(page=str(PAGE), results=str(folder / "runs" / "results.json"))


def _run(*words: object) -> None:
    if code := subprocess.run([sys.executable, *map(str, words)], check=False).returncode:
        raise SystemExit(code)


if __name__ == "__main__":
    run_command(results_quick, "python benchmarks/results_quick.py")
