"""Cross-lingual pre-training: MMLM, TLM, CAMLM, BTMLM (ERNIE-M, arXiv 2012.15674) and CLM on DeepSpeed ZeRO.

The package is a house of rooms, from the ground up: a room imports itself and rooms that stand before it, no other
(tests/unit/test_layers.py). Each room's `__init__` says what it is for and where to start reading.
"""

__version__ = "0.1.0"

ROOMS = (
    "base",
    "corpus",
    "rows",
    "models",
    "translation",
    "runs",
    "interop",
    "training",
    "supervision",
    "hosts",
    "planning",
    "downstream",
    "aligning",
    "ablation",
    "show",
    "commands",
)
