"""How a step's rows are made: who reads whom, what is predicted, which text goes where. A pure function of (seed, step).

In:     a CorpusFolder, the recipe's stages.   Out: PackedBatch, integers only, the same for any number of ranks.
Knows:  objectives and their attention rule; no torch (except in `to_device`).
Start:  objectives (THE table; objective says what an entry is), then batch (what travels to the model), then dataloader.
"""
