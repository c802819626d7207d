"""What `palimpsest bench` records of decoding for one machine in `data/bench`."""

from datetime import UTC, datetime

import pandas as pd
import torch

from palimpsest import runs
from palimpsest.chapters.sage import cost
from palimpsest.chapters.sage.arms import PLAIN
from palimpsest.chapters.sage.experiment import execute
from palimpsest.chapters.sage.profiles import PROFILES

PROFILE = "ci"
REPEATS, REQUESTS = 3, 2


def bench() -> dict[str, pd.DataFrame]:
    """The three tables of `data/bench` by name: "decoding", "verify_cost" and "real_forwards", on one thread."""
    torch.set_num_threads(1)
    arms = execute(PROFILE).arms | {"autoregressive": PLAIN}
    which, seeds = {name: arms[name] for name in cost.TIMED}, PROFILES[PROFILE].seeds
    tables = []
    with runs.progress_bar(total=len(seeds), desc="decoding") as bar:
        for seed in seeds:
            tables.append(cost.timed(PROFILE, seed, range(REQUESTS), which, REPEATS))
            bar.update()
    columns = where()
    found = {
        "decoding": pd.concat(tables),
        "verify_cost": pd.DataFrame(cost.forwards(PROFILE)),
        "real_forwards": cost.real_forwards(),
    }
    return {name: table.assign(**columns) for name, table in found.items()}


def where() -> dict:
    """The columns that say on what, by which versions and when rows of one thread were measured."""
    environment = runs.environment()
    found = {name: environment[name] for name in ("cpu", "torch", "transformers", "commit") if name in environment}
    return found | {"threads": 1, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
