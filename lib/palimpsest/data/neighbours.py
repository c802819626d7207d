"""The trials by which the settings of rivals were chosen, as `palimpsest.chapters.neighbours.language_ship` made
them."""

import json

import pandas as pd

from . import manifest

FOLDER = "neighbours"
LANGUAGE = f"{FOLDER}/language_search.csv"


def language_search() -> pd.DataFrame:
    """A row each: "rival", its "settings" (a dictionary), the "seed" and the "gap closed", NaN where it diverged.
    ValueError for a file that is altered."""
    found = pd.read_csv(manifest.verify(LANGUAGE))
    return found.assign(settings=found.settings.map(json.loads))
