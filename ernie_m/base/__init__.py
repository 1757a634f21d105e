"""What every other room uses: settings and their ranges, errors and progress, files, random numbers, facts of machines.

In:     a recipe, a command line, the environment.   Out: checked settings, one clear line for a mistake.
Knows:  nothing of corpora, models or runs; no torch.
Start:  config (a recipe becomes dataclasses), then console (InputError, Progress), then files.
"""
