"""What the tests of every op share: the interpreter, poisoned buffers, the grid of dtypes and backends."""

import pytest
import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    """Every buffer that the library allocates starts as NaN, so a place that no kernel writes cannot pass."""

    def poisoned(allocate):
        def wrapper(*args, **kwargs):
            buffer = allocate(*args, **kwargs)
            return buffer.fill_(float("nan")) if buffer.is_floating_point() else buffer

        return wrapper

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


@pytest.fixture(params=[None, "triton"], ids=["torch", "triton"])
def backend(request):
    """Both implementations that a caller can get without asking for the reference."""
    return request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20240700362)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("not run: no CUDA device")
    return torch.device("cuda")


def pytest_collection_modifyitems(items):
    """Under the interpreter, dtypes other than float32 are slow tests: `make test` runs them, FAST=1 does not."""
    for item in items:
        case = getattr(item, "callspec", None)
        if case is not None and "triton" in case.id and any(d in case.id for d in ("float16", "float64")):
            item.add_marker(pytest.mark.slow)
