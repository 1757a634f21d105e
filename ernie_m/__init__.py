"""Cross-lingual pre-training: MMLM, TLM, CAMLM, BTMLM (ERNIE-M, arXiv 2012.15674) and CLM on DeepSpeed ZeRO."""

__version__ = "0.1.0"
