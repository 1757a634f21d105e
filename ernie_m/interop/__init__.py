"""Hugging Face: read weights that a run starts from, write a finished run as a folder, open any encoder.

In:     a checkpoint or a folder of weights (Hugging Face, fairseq, XLM-R).   Out: the same weights under the other names.
Knows:  transformers' layouts; not the training loop.
Start:  export, then source and start (`init_from`), then encoder (the one opener of foreign models).
"""
