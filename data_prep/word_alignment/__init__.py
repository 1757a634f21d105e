"""Which token of a pair translates which: fast_align's model on token ids, and files of links from other aligners.

`model.py` tells the model and trains it; `cells.py` lays pairs out; the two engines hold the inner loops, in numpy and in
numba, with the same results; `decoding.py` and `symmetrization.py` make links; `folder.py` does it for a data folder.
"""
