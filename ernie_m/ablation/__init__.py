"""Comparisons: several pre-trainings that differ in one thing, all measured in the same way, in one table.

1. `variants`: what is compared, as `recipes` with overrides. 2. `jobs`: each run through the real launcher, once.
3. `measures`: how a finished run is measured.                4. `figures`, `report`: what of it is told, as table and plot.

In: a base recipe and what to vary. Out: one table with the error of each figure. Start reading at comparison.
"""
