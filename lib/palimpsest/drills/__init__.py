"""Drills: what a release should stand, tried out at random with a seed. `make drills` makes them all.

`inputs`: generated arguments, good and bad, for kernels and public functions, against formulas of float64 written
anew (`kernel_cases`, `metric_cases`). `kills`: processes killed at random moments (`subjects`). `changes`: single
bytes of files changed. Their figures are rows of `data/bench/drills.cpu.csv`, which the page What held prints.
"""
