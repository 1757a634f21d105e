"""Shows a run: one static page with its curves, retrieval between languages, maps of sentences and words, and
examples of its objectives and pseudo tokens. The page contains everything that it shows; `ernie-m show` writes it.

In: a run folder. Out: report.html. Start reading at report.
"""
