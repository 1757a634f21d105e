"""A cache of words for tokenizers that cut text at spaces: each word is cut into pieces once.

In:     a tokenizer, lines of text.   Out: the very ids that the tokenizer gives, and a proof of it.
Start:  word_cache, then word_independence (when the cache may be used), segmentation_gap (a check while it works).
"""
