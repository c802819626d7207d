"""Make what the SAU experiment ships: its models, by `python -m palimpsest.chapters.sau.ship models`, and the search
for the values of its arms, which starts from them, by `python -m palimpsest.chapters.sau.ship search`.

Each takes most of an hour of two cores; one that was stopped goes on where it was. On another processor the weights
are others (`data.sau_models`), and with them every number of the chapter: accept them with `palimpsest accept sau`.
"""

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from palimpsest import runs
from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.sau.search import trials
from palimpsest.chapters.sau.small import keep, stored
from palimpsest.chapters.sau.small import models as wanted
from palimpsest.data import manifest, sau_models
from palimpsest.runs import paths

PROFILE = "ci"
TORCH = torch.__version__.partition("+")[0]
VERSIONS = f"torch {TORCH}, transformers {transformers.__version__}"
ABOUT = {"licence": "MIT", "origin": "this project; trained on the shipped authors"}


def models() -> None:
    """Train and prune what is not in the cache, write all to `data/sau_models/`, and list it in the manifest; no
    other model stays there."""
    configs, names = [{"profile": PROFILE, **model} for model in wanted(PROFILES[PROFILE])], []
    runs.run_all(keep, configs, show="SAU: models to ship")
    content = [stored(**config) for config in configs]  # what is listed decides where the cache looks: so all first
    for config, weights in zip(configs, content, strict=True):
        _, *which = config.values()
        names.append(sau_models.name(*which))
        runs.write_atomic(paths.DATA / names[-1], lambda file, weights=weights: save_file(weights, Path(file)))
    listed = [path for path in manifest.read() if path.startswith(f"{sau_models.FOLDER}/")]
    gone = [path for path in listed if path not in (*names, sau_models.SEARCH)]
    for path in gone:
        (paths.DATA / path).unlink(missing_ok=True)
    manifest.update([*names, *gone], made_by=f"python -m palimpsest.chapters.sau.ship models, {VERSIONS}", **ABOUT)


def search() -> None:
    """Search on the tuning seeds, write the trials to `data/sau_models/`, and list them."""
    found = trials(PROFILES[PROFILE])
    runs.write_atomic(paths.DATA / sau_models.SEARCH, lambda file: found.to_csv(file, index=False))
    made_by = f"python -m palimpsest.chapters.sau.ship search, {VERSIONS}"
    manifest.update([sau_models.SEARCH], made_by=made_by, **ABOUT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("what", choices=["models", "search"])
    {"models": models, "search": search}[parser.parse_args().what]()
