"""An empty cache per module, and what tells the keys that the source has changed."""

from pathlib import Path

import pytest

from palimpsest.runs import cache as store
from palimpsest.runs import paths, pool, sources


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """An empty cache, for this process and for the workers, which live as long as it does."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", folder)
        patch.setenv("PALIMPSEST_CACHE", str(folder))
        # Workers, of a pool or of a cluster, import the rows of these tests.
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(sources.__file__).parents[2]}")
        patch.delenv("PALIMPSEST_PROGRESS", raising=False)
        patch.delenv("PALIMPSEST_SCHEDULER", raising=False)
        pool._pool.cache_clear()
        yield folder
        pool._pool.cache_clear()


@pytest.fixture
def forget():
    """What a process reads once it reads again after a call of this."""

    def forget() -> None:
        kept = (sources.project, sources._texts, sources._module, sources._closure, store.readers, store._shipped)
        for function in kept:
            function.cache_clear()

    yield forget
    forget()
