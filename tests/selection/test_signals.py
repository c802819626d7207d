"""Forgetting events and per-sample gradient norms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest import selection


def test_forgetting_events_by_hand():
    # Columns: never forgotten, learned again after a slip, forgotten twice, never learned, learned last.
    correct = torch.tensor(
        [[1, 1, 1, 0, 0],
         [1, 0, 0, 0, 0],
         [1, 1, 1, 0, 0],
         [1, 1, 0, 0, 1]], dtype=torch.bool,
    )  # fmt: skip
    # Never learned counts as all four presentations, more than the two that fit in four epochs.
    assert selection.forgetting_events(correct).tolist() == [0, 1, 2, 4, 0]


def test_forgetting_events_refuse_bad_input():
    for bad in (
        torch.zeros(3, 2),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(0, 2, dtype=torch.bool),
        [[True]],
    ):
        with pytest.raises(ValueError, match=r"correct is .*; wanted a non-empty \[E, N\] bool tensor"):
            selection.forgetting_events(bad)


def test_grad_norms_of_a_linear_layer_by_hand():
    # d loss / dW = (p − y)xᵀ and d loss / db = p − y: the norm is ‖p − y‖·√(‖x‖² + 1). With zero weights
    # p = (½, ½) and ‖p − y‖ = √½; ‖x‖² + 1 = 26, 1, 3.
    layer = nn.Linear(2, 2).double().eval()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    norms = selection.grad_norms(layer, x, torch.tensor([0, 1, 1]))
    expected = torch.tensor([26.0, 1.0, 3.0], dtype=torch.float64).div(2).sqrt()
    torch.testing.assert_close(norms, expected, rtol=16 * 2**-52, atol=0)


def test_grad_norms_equal_a_loop_of_backward_passes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(48, 4),
    ).double()
    model(torch.randn(8, 1, 6, 6, dtype=torch.float64))  # moves the running statistics off their start
    model.eval()
    model[0].bias.requires_grad_(False)
    x, y = torch.randn(7, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])

    expected = []
    for sample, label in zip(x, y, strict=True):
        loss = F.cross_entropy(model(sample[None]), label[None])
        gradients = torch.autograd.grad(loss, [w for w in model.parameters() if w.requires_grad])
        expected.append(torch.cat([g.flatten() for g in gradients]).norm())

    norms = selection.grad_norms(model, x, y, chunk=3)
    # Sums of a few hundred float64 products in another order.
    torch.testing.assert_close(norms, torch.stack(expected), rtol=1000 * 2**-52, atol=0)
    assert all(w.grad is None for w in model.parameters())
    assert not norms.requires_grad


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": nn.Linear(2, 2).train()}, "model is in training mode; wanted model.eval()"),
        ({"chunk": 0}, "chunk is 0; wanted a positive integer"),
        ({"x": torch.zeros(0, 2)}, r"x is \[0, 2\] of torch.float32; wanted a non-empty"),
        ({"x": [[0.0, 0.0]] * 3}, "x is of type list"),
        ({"y": torch.tensor([0, 1])}, r"labels has shape \[2\]; wanted .* N = 3"),
        ({"y": torch.tensor([0, 1, 2])}, "the output of model has 2 class columns, but labels goes up to 2"),
    ],
)
def test_grad_norms_refuse_bad_input(changed, message):
    arguments = {
        "model": nn.Linear(2, 2).eval(),
        "x": torch.zeros(3, 2),
        "y": torch.tensor([0, 1, 1]),
    } | changed
    with pytest.raises(ValueError, match=message):
        selection.grad_norms(**arguments)
