"""Make the trials of the language rivals that are shipped: `python -m palimpsest.chapters.neighbours.language_ship`,
in some minutes of two cores; one that was stopped goes on where it was."""

import json
from pathlib import Path

from palimpsest import runs
from palimpsest.chapters.neighbours.language_search import trials
from palimpsest.chapters.neighbours.profiles import LANGUAGE
from palimpsest.data import manifest, neighbours
from palimpsest.runs import paths


def ship() -> None:
    """Search on the tuning seeds, write the trials to `data/neighbours/`, and list them."""
    found = trials(LANGUAGE["ci"])
    table = found.assign(settings=found.settings.map(json.dumps))
    runs.write_atomic(paths.DATA / neighbours.LANGUAGE, lambda file: table.to_csv(Path(file), index=False))
    made_by = "python -m palimpsest.chapters.neighbours.language_ship"
    manifest.update([neighbours.LANGUAGE], made_by=made_by, licence="MIT")


if __name__ == "__main__":
    ship()
