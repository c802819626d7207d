"""What the tests of every op share: the interpreter, poisoned buffers, the grid of dtypes and backends."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
ALLOCATORS = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"))


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    """Every buffer that the library allocates starts as NaN, so a place that no kernel writes cannot pass."""

    def poisoned(allocate):
        def wrapper(*args, **kwargs):
            buffer = allocate(*args, **kwargs)
            return buffer.fill_(float("nan")) if buffer.is_floating_point() else buffer

        return wrapper

    for owner, name in ALLOCATORS:
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


class LargestTensor(TorchDispatchMode):
    def __init__(self, *given):
        super().__init__()
        self.given, self.nbytes = {x.untyped_storage().data_ptr() for x in given}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in self.given:
                self.nbytes = max(self.nbytes, value.untyped_storage().nbytes())
        return result


@pytest.fixture
def largest_tensor():
    """``with largest_tensor(*given) as largest``: afterwards largest.nbytes is the size of the largest tensor,
    views of `given` aside, that any torch operation returned."""
    return LargestTensor


@pytest.fixture
def assert_same_bits():
    """Call a function twice on fresh copies of its inputs; results and, where it has them, gradients are equal."""

    def run(function, inputs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        results = function(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        if not results[0].requires_grad:
            return results
        return *results, *torch.autograd.grad(results[0].square().sum(), leaves)

    def check(function, *inputs):
        for first, second in zip(run(function, inputs), run(function, inputs), strict=True):
            assert torch.equal(first, second)

    return check


@pytest.fixture
def rows_not_to_be_read(monkeypatch):
    """Give it a tensor [R, D] and a number of rows: those rows come back, and a kernel that the interpreter runs
    fails when it loads from the other rows, even where it would drop what it read."""

    def guard(tensor, rows):
        from triton.runtime.interpreter import InterpreterBuilder

        first = tensor[rows].data_ptr()
        last = tensor.data_ptr() + tensor.nbytes
        load = InterpreterBuilder.create_masked_load

        def checked(self, ptrs, mask, *args):
            read = ptrs.data[mask.data]
            assert not ((read >= first) & (read < last)).any(), "a row past the end is read"
            return load(self, ptrs, mask, *args)

        monkeypatch.setattr(InterpreterBuilder, "create_masked_load", checked)
        return tensor[:rows]

    return guard


@pytest.fixture
def stores_in_place(monkeypatch):
    """Give it the tensors that an op updates, if any. A kernel that the interpreter runs then fails when it stores
    beside them and the buffers that the library allocates, or twice to one place: that is where a mask ends up which
    lets one element too many through, past the last row or past the end of a row."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    known, stored = [], []
    store, launch = InterpreterBuilder.create_masked_store, GridExecutor.__call__

    def remembered(allocate):
        def wrapper(*args, **kwargs):
            known.append(allocate(*args, **kwargs))
            return known[-1]

        return wrapper

    def checked(self, ptrs, value, mask, *args):
        places = ptrs.data[mask.data]
        storages = [x.untyped_storage() for x in known]
        inside = [(places >= x.data_ptr()) & (places < x.data_ptr() + x.nbytes()) for x in storages]
        assert np.any(inside, 0).all(), "a place outside is stored to"
        stored.append(places)
        return store(self, ptrs, value, mask, *args)

    def counted(self, *args, **kwargs):
        launch(self, *args, **kwargs)
        places = np.concatenate(stored) if stored else np.empty(0)
        stored.clear()
        assert len(np.unique(places)) == len(places), "a place is stored to twice"

    for owner, name in ALLOCATORS:
        monkeypatch.setattr(owner, name, remembered(getattr(owner, name)))
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", checked)
    monkeypatch.setattr(GridExecutor, "__call__", counted)
    return known.extend


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
