"""KLoM in small worlds: distributions of margins over networks that share their images and forget set."""

from collections.abc import Sequence

import numpy as np

from palimpsest import training
from palimpsest.chapters.neighbours.vision_stress import forgotten, named
from palimpsest.chapters.neighbours.vision_worlds import PROFILES, loaded, problem
from palimpsest.metrics.distances import klom
from palimpsest.metrics.predictions import margin

BINS = 4
"""Few, because eight networks fill no more."""


def spread(profile: str, method: str, values: Sequence[float]) -> list[dict]:
    """KLoM on the forget set, in nats, over all networks of a world, one row per world; method: as in `measured`."""
    setting, rows = PROFILES[profile], []
    for seed, value in zip(setting.seeds, values, strict=True):
        count = setting.networks
        given = problem(setting, [seed] * count)
        originals, retrained = (loaded(profile, seed, kind, count) for kind in ("original", "retrain"))
        if method in ("original", "retrain again"):
            models = loaded(profile, seed, method, count)
        else:
            chosen = named(profile, method, given, originals)
            models = forgotten(setting, originals, given, chosen, [value] * count)
        x, y = given.take(given.forget)
        margins = [
            np.stack([margin(z, truth) for z, truth in zip(training.logits(m, x), y, strict=True)])
            for m in (models, retrained)
        ]
        rows.append({"method": method, "seed": seed, "klom": float(klom(*margins, bins=BINS).mean())})
    return rows
