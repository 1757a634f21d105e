"""Translating text with a model that was trained to: lines to batches of ids, and back, in their order.

In: a translation model, its vocabulary, lines of text. Out: a translation of each line. Start reading at lines.
"""
