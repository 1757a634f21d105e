"""The encoder, its attention backends, its heads and the loss; BTMLM's generation; measures of transfer (gain, retrieval).

In:     a PackedBatch.   Out: the summed loss of its predicted positions, or hidden states.
Knows:  torch; not DeepSpeed, ranks or files.
Start:  model (Encoder.forward), then loss (exact over the global step), then attention.
"""
