"""The smallest setting of the SAU experiment, for the tests of it and of what builds on it."""

from dataclasses import replace

from palimpsest.chapters.sau.profiles import SMOKE
from palimpsest.training.language import Recipe

TINY = replace(
    SMOKE,
    training=Recipe(1, 3e-3, 64),
    calibration=8,
    width=16,
    hidden=16,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=32,
    unlearn_batch=24,
    look_every=1,
)
