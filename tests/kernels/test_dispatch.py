"""The choice of a backend, alike for every op: what ran is told, and Triton is refused where it cannot run."""

from pathlib import Path

import pytest
import torch

from palimpsest import kernels
from palimpsest.kernels import _dispatch

MATRIX, INDICES = torch.ones(2, 3), torch.tensor([0, 1])
CACHE = torch.zeros(1, 2, 10, 5)
NUMBERS = {"step": 1, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}

CALLS = {
    "cache_commit": (kernels.cache_commit, ([CACHE], [CACHE], [0, 2], 6), {}, "torch-batched"),
    "jensen_shannon": (kernels.jensen_shannon, (MATRIX, MATRIX), {}, "torch-chunked"),
    "lsq_quantize": (kernels.lsq_quantize, (MATRIX, torch.tensor(0.5), -8, 7), {}, "torch-inplace"),
    "masked_adamw_": (
        kernels.masked_adamw_,
        (*([torch.ones(2, 3)] for _ in range(4)), [MATRIX.bool()], [MATRIX]),
        NUMBERS,
        "torch-chunked",
    ),
    "project_orthogonal": (kernels.project_orthogonal, ([MATRIX], [MATRIX]), {}, "torch-chunked"),
    "softmax_entropy": (kernels.softmax_entropy, (MATRIX,), {}, "torch-chunked"),
    "token_logprob": (kernels.token_logprob, (MATRIX, MATRIX, INDICES), {}, "torch-chunked"),
    "topk_confidence": (kernels.topk_confidence, (MATRIX, 2), {}, "torch-grouped"),
    "tree_attention": (
        kernels.tree_attention,
        (torch.zeros(1, 2, 3, 5), CACHE, CACHE, torch.eye(3, dtype=torch.bool), 7, 1.0),
        {},
        "torch-sdpa",
    ),
}
"""By op: what to call with what, and the name of its torch path."""


def test_every_op_is_here():
    assert set(CALLS) == {file.parent.name for file in Path(kernels.__file__).parent.glob("*/reference.py")}


@pytest.mark.parametrize("op", CALLS)
def test_last_backend_tells_what_ran(op):
    function, inputs, numbers, torch_path = CALLS[op]
    for backend, ran in ((None, torch_path), ("reference", "reference"), ("triton", "triton-interpreted")):
        function(*inputs, **numbers, backend=backend)
        assert kernels.last_backend() == f"{op}: {ran}"


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (("compiled", ""), "tensors are on cpu, and TRITON_INTERPRET=1 is not set"),
        ((None, "triton is not installed"), "triton is not installed"),
    ],
)
def test_forced_triton_is_refused_where_it_cannot_run(op, mode, message, monkeypatch):
    monkeypatch.setattr(_dispatch, "triton_mode", lambda: mode)
    function, inputs, numbers, _ = CALLS[op]
    with pytest.raises(kernels.BackendUnavailableError, match=f"backend: 'triton' cannot run here: .*{message}"):
        function(*inputs, **numbers, backend="triton")
