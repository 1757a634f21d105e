"""Which token of a pair translates which: fast_align's model on token ids, and files of links from other aligners.

`model.py` has the model and its training; `cells.py` arranges pairs in arrays; the two engines have the inner loops, in
numpy and in numba, with the same results; `decoding.py` and `symmetrization.py` make links; `folder.py` aligns a data
folder.
"""
