"""Shards on disk: a folder of Arrow files with token ids, and the manifest that describes them.

In:     a folder that `python -m data_prep build` made.   Out: streams (a language, or a language pair) of mapped shards.
Knows:  files and numbers, not what is trained on them; no torch.
Start:  manifest (what the folder holds), then folder (CorpusFolder, Stream, Shard).
"""
