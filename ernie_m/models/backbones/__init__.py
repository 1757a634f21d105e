"""Encoders of transformers as backbones, with packing, heads at predicted positions only, and objectives that do not leak.

In:     a model that transformers opened.   Out: hidden states of a PackedBatch, and losses of heads.
Knows:  transformers' attention-interface registry; not files.
Start:  encoder (ForeignEncoder), then rule (how the attention rule gets to every layer), then checks (what is refused).
"""
