import shutil
from dataclasses import replace

import pytest
from plans import METHODS, UNLEARNING

from palimpsest import runs
from palimpsest.chapters.shared import study
from palimpsest.chapters.unlearning_quantised import study as unlearning
from palimpsest.chapters.unlearning_quantised.arms import PILOTED
from palimpsest.chapters.unlearning_quantised.cohort import dataset
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.data import manifest
from palimpsest.drills.subjects import in_this_process
from palimpsest.runs import cache, paths


@pytest.fixture
def in_process(tmp_path, monkeypatch):
    """Experiments compute here, into a cache of their own: what two arms share is computed once, and models that
    another test loaded are at hand, which workers would load again."""
    monkeypatch.setattr(runs.paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runs, "run_all", lambda f, jobs, show: [runs.cached(f, job) for job in jobs])


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """One folder for all tests, so that the whole study is computed once."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def tiny_study(studies):
    """The study of unlearning at tiny size: three methods at two values on two seeds."""
    dataset("fashion-mnist"), cache._shipped()  # read from the repository's own folder
    sizes = {"samples": 100, "validation": 40, "test": 40, "epochs": 1, "retain_samples": 30}
    setting = replace(PROFILES["smoke"], name="study", qat_lr=0.001, **sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "spread", in_this_process)
        patch.setattr(paths, "CACHE", studies / "cache")
        patch.setattr(unlearning, "STUDIED", METHODS)
        patch.setitem(PROFILES, "study", setting)
        for method in METHODS:  # networks as hardly trained as these diverge at the values of the pilot
            patch.setitem(PILOTED, method, 0.001)
        yield studies


@pytest.fixture
def use_data(tiny_study, monkeypatch):
    """Makes an empty folder of data the one that is used."""

    def use(name: str):
        folder = tiny_study / name
        folder.mkdir(exist_ok=True)
        (folder / manifest.NAME).exists() or (folder / manifest.NAME).write_text("[]\n")
        monkeypatch.setattr(paths, "DATA", folder)
        monkeypatch.setattr(paths, "ROOT", folder)
        return folder

    return use


@pytest.fixture
def recorded(tiny_study, use_data, tmp_path):
    """A folder with the whole study, to be spoilt."""
    if not (tiny_study / "whole").exists():
        use_data("whole")
        study.run(UNLEARNING)
    shutil.copytree(tiny_study / "whole", tiny_study / tmp_path.name)
    return use_data(tmp_path.name)
