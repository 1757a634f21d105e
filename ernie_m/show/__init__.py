"""Looking at a run: one static page with its curves, retrieval between languages, a map of sentences, and what its
objectives and pseudo tokens really look like. The page holds all that it shows; `ernie-m show` writes it.

In: a run folder. Out: report.html. Start reading at report.
"""
