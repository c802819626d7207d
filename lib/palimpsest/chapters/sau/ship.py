"""Train and ship the models of the SAU experiment: `python -m palimpsest.chapters.sau.ship`.

Minutes of two cores; a run that was stopped goes on with the model it was at. On another processor the weights are
others (`data.sau_models`), and with them every number of the chapter: accept them with `palimpsest accept sau`.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from palimpsest import runs
from palimpsest.chapters.sau.experiment import make
from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.sau.small import Cohort, models
from palimpsest.data import manifest, sau_models
from palimpsest.runs import paths

PROFILE = "ci"
TORCH = torch.__version__.partition("+")[0]
MADE_BY = f"python -m palimpsest.chapters.sau.ship, torch {TORCH}, transformers {transformers.__version__}"


def main() -> None:
    """Train what is not in the cache, write all to `data/sau_models/`, and list it in the manifest."""
    setting, names = PROFILES[PROFILE], []
    wanted = models(setting)
    runs.run_all(make, [{"profile": PROFILE, **model} for model in wanted], show="SAU: models to ship")
    for group, seed, whose in ((model["group"], model["seed"], model["whose"]) for model in wanted):
        names.append(sau_models.name(group, seed, whose))
        trained = Cohort(setting, group, seed).trained(whose)
        weights = {name: weight.to(torch.float16) for name, weight in trained.items()}
        runs.write_atomic(paths.DATA / names[-1], lambda file, weights=weights: save_file(weights, Path(file)))
    gone = [path for path in manifest.read() if path.startswith(f"{sau_models.FOLDER}/") and path not in names]
    for path in gone:
        (paths.DATA / path).unlink(missing_ok=True)
    manifest.update(
        [*names, *gone], licence="MIT", origin="this project; trained on the shipped authors", made_by=MADE_BY
    )


if __name__ == "__main__":
    main()
