"""A study of nothing, in a module that worker processes can import."""

import os

import numpy as np

from palimpsest.chapters.shared.study import Outcome, Plan

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


PLAN = Plan("nothing", "palimpsest run nothing", stages, compute, reference, reference, measure, kind)
