import pytest

from palimpsest import runs


@pytest.fixture
def in_process(tmp_path, monkeypatch):
    """Experiments compute here, into a cache of their own: what two arms share is computed once, and models that
    another test loaded are at hand, which workers would load again."""
    monkeypatch.setattr(runs.paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runs, "run_all", lambda f, jobs, show: [runs.cached(f, job) for job in jobs])
