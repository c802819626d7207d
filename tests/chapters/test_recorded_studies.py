"""The studies as they are: their plans fit, and what is recorded of them is what their predictions give."""

from collections import Counter

import pytest

from palimpsest.chapters.jscds import study as jscds
from palimpsest.chapters.jscds.cohort import PROFILES as JSCDS
from palimpsest.chapters.shared import stored, study
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES

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


def test_the_study_of_unlearning_has_its_replications_and_fits_the_repository():
    setting = PROFILES["study"]
    assert setting.samples * 0.05 >= 1000
    assert len(setting.seeds) == 10
    assert not set(setting.seeds) & set(setting.tuning_seeds)
    arms = unlearning.PLAN.arms
    counts = Counter((arm["group"], arm["method"] in ("original", "retrain")) for arm in arms)
    assert counts["judged", False] == 10 * len(unlearning.STUDIED)
    # 3 parts of 1,000 samples: logits of ten classes in float16, and a label.
    assert len(arms) * 3 * 1000 * (10 * 2 + 1) < stored.LIMIT


def test_the_study_of_jscds_has_its_replications_and_fits_the_repository():
    setting, arms = JSCDS["study"], jscds.PLAN.arms
    assert setting.samples >= 10_000
    assert setting.epochs >= 60
    assert len(setting.seeds) == 10
    assert not set(setting.seeds) & set(JSCDS["ci"].seeds)
    assert len(arms) == len(setting.conditions) * len(jscds.plan()) * len(setting.lr_grid) * 10
    # A byte for each test and validation image, and 2,000 for what is said of an arm.
    assert len(arms) * (setting.test + setting.validation + 2000) < stored.LIMIT
