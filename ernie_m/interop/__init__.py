"""Hugging Face, both ways: weights that a run starts from, the folder that a finished run becomes, any encoder opened.

In:     a checkpoint or a folder of weights (Hugging Face, fairseq, XLM-R).   Out: the same weights under the other names.
Knows:  transformers' layouts; not the training loop.
Start:  export, then source and start (`init_from`), then encoder (the one opener of foreign models).
"""
