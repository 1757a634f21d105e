"""The training itself: the DeepSpeed engine, the loop over steps, what watches them.

In:     a recipe (TrainingConfig), data, a run folder.   Out: checkpoints, metrics, an exit code that says why it ended.
Knows:  every room below; DeepSpeed through deepspeed_adapter alone.
Start:  trainer (a run from start to end), then training_loop (a step), then engine.
"""
