"""A run on disk and the ranks that work on it: run folder, verified checkpoints, metrics.

In:     the state of a training, from any number of ranks.   Out: a checkpoint that any number of ranks can go on from.
Knows:  process groups and disks, not what is trained.
Start:  run_folder, then checkpoint (the format), checkpoint_commit (saving by votes), checkpoint_store, ranks.
"""
