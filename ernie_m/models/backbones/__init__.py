"""Encoders of transformers as backbones: packing, predicted-only heads and leak-free objectives for any of them.

In:     a model that transformers opened.   Out: hidden states of a PackedBatch, and a head on chosen ones.
Knows:  transformers' attention-interface registry; not files.
Start:  encoder (ForeignEncoder), then rule (how who-reads-whom gets to every layer), then checks (what is refused).
"""
