"""What the tests of studies share, and a study of nothing that worker processes can import."""

import json
import os

import numpy as np
from safetensors.numpy import load, save

from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared.study import Outcome, Plan
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.arms import REFERENCES
from palimpsest.data import manifest

UNLEARNING = unlearning.PLAN
METHODS = ("fine-tune", "random label", "Q-MUL")
"""Those of the study at tiny size."""

ARMS = [{"method": method, "seed": seed} for method in ("a", "b") for seed in (0, 1)]


def stages():
    return [ARMS[:2], ARMS[2:]]


def compute(arms):
    if os.environ.get("SPOILT") == arms[0]["method"]:
        raise ValueError("a bad arm")
    return [Outcome({"x": np.full(3, arm["seed"] / 3)}, {"process": os.getpid()}) for arm in arms]


def reference(arm):
    return None


def measure(arm, arrays, against):
    return {"mean": float(arrays["x"].astype(float).mean())}


def kind(arm):
    return arm["method"]


NOTHING = Plan("nothing", "palimpsest run nothing", stages, compute, reference, reference, measure, kind)


def arm(method: str, seed: int = 0) -> stored.Arm:
    """A network, or a method at the first value of its grid."""
    if method in REFERENCES:
        return unlearning._arm(method, seed)
    value, *_ = unlearning.grid(unlearning.PROFILE, unlearning.STUDIED_AT[0], method)
    return unlearning._arm(method, seed, value=value)


def all_right(arrays: dict[str, np.ndarray]) -> None:
    """Make every prediction on test images right."""
    arrays["test"][np.arange(len(arrays["test"])), arrays["test_labels"]] = 100


def respoil(file, change) -> None:
    """Alter the predictions of an arm, and the manifest with them."""
    kept = {"row": json.dumps(stored.header(file))}
    arrays = load(file.read_bytes())
    change(arrays)
    file.write_bytes(save(arrays, kept))
    manifest.update([file])
