"""The studies as they are: their plans fit, and what is recorded of them is what their predictions give."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_tensors

from palimpsest import nets, runs
from palimpsest.chapters.jscds import study as jscds
from palimpsest.chapters.jscds.cohort import PROFILES as JSCDS
from palimpsest.chapters.shared import stored, study
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.arms import METHODS, REFERENCES
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.nets.quantised import quantise

PLANS = {unlearning.NAME: unlearning.PLAN, jscds.NAME: jscds.PLAN}


@pytest.mark.parametrize("name", PLANS)
def test_every_number_of_a_recorded_study_is_measured_again(name):
    if study.recompute(PLANS[name]) is None:
        pytest.skip(f"not run: no study {name} is recorded")


@pytest.mark.parametrize("name", PLANS)
def test_arms_come_after_what_they_need(name):
    plan, before = PLANS[name], []
    for stage in plan.stages():
        before += stage
        assert all(plan.reference(arm) in before for arm in stage)
        assert all(plan.origin(arm) in [None, *before] for arm in stage)
    assert len(set(map(stored.name_of, plan.arms))) == len(plan.arms)


def test_the_study_of_unlearning_has_its_replications():
    setting = PROFILES["study"]
    assert setting.samples * 0.05 >= 1000
    assert len(setting.seeds) == 10
    assert setting.tuned_on < 10
    stages = unlearning.stages()
    assert Counter(arm["method"] for arm in stages[0]) == dict.fromkeys(REFERENCES, 10)
    tried = {method: len(METHODS[method].grid) for method in unlearning.STUDIED}
    assert Counter(arm["method"] for arm in stages[1]) == {method: 10 * n for method, n in tried.items()}
    assert len(set(tried.values())) == 1, "every method the same search"


def test_the_study_of_unlearning_fits_the_repository():
    plan, setting, sizes = unlearning.PLAN, PROFILES["study"], dict.fromkeys(unlearning.PARTS, unlearning.KEPT)
    sizes["forget"] = round(0.05 * setting.samples)
    arrays = {name: np.zeros((count, 10)) for name, count in sizes.items()}
    arrays |= {f"{name}_labels": np.zeros(count, int) for name, count in sizes.items()}
    made = {"source": "0" * 64, "seconds": 1000.0, "date": "2000-01-01", "command": plan.command}
    made |= {"environment": runs.environment()}
    row = {"arm": plan.arms[-1], "counted": {"steps": 200, "work": 1e6}, "made": made}
    arm = len(save(stored.rounded(arrays), {"row": json.dumps(row)}))
    network = nets.build(setting.architecture, channels=3, classes=10, seed=0)
    weights = stored.halved(quantise(network, (4, 4), torch.rand(2, 3, 32, 32)).state_dict())
    start = len(save_tensors({name: value.contiguous() for name, value in weights.items()}))
    # Room is left for headers that another machine writes longer.
    assert len(plan.arms) * arm + len(setting.seeds) * start < 0.97 * stored.LIMIT


def test_the_study_of_jscds_has_its_replications_and_fits_the_repository():
    setting, arms = JSCDS["study"], jscds.PLAN.arms
    assert setting.samples >= 10_000
    assert setting.epochs >= 60
    assert len(setting.seeds) == 10
    assert not set(setting.seeds) & set(JSCDS["ci"].seeds)
    assert len(arms) == len(setting.conditions) * len(jscds.plan()) * len(setting.lr_grid) * 10
    # A byte for each test and validation image, and 2,000 for what is said of an arm.
    assert len(arms) * (setting.test + setting.validation + 2000) < stored.LIMIT
