"""What a reader hands to `unlearn`: arrays, lists, names, and networks of other habits than ours."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from vision_problems import CLASSES, SETTINGS, SIDE, Net, data, start, state

from palimpsest.nets import modes
from palimpsest.unlearning.vision import METHODS, unlearn

X, Y, FORGET = (one[0] for one in data(1, torch.float32))


class Dressed(nn.Module):
    """A network whose output is dressed up."""

    def __init__(self, dress):
        super().__init__()
        self.net, self.dress = Net(0), dress

    def forward(self, x):
        return self.dress(self.net(x))


def forgotten(model, x=X, y=Y, forget=FORGET, method=METHODS["NegGrad+"], **more):
    unlearn([model], x, y, forget, method, lr=0.01, **(SETTINGS | more))
    return state(model)


def plain():
    return start([0], dtype=torch.float32)[0]


def test_arrays_lists_and_a_name_are_the_tensors_and_the_method():
    want = forgotten(plain())
    assert not torch.equal(want, state(plain()))
    assert torch.equal(forgotten(plain(), X.double().numpy(), Y.tolist(), FORGET.tolist(), "NegGrad+"), want)
    assert torch.equal(forgotten(plain(), X.numpy(), Y.numpy().astype(np.int32), FORGET.numpy()), want)


def test_outputs_may_be_dressed():
    want = forgotten(Dressed(lambda logits: logits))
    for dress in (lambda logits: SimpleNamespace(logits=logits), lambda logits: (logits, None)):
        assert torch.equal(forgotten(Dressed(dress)), want)
    with pytest.raises(ValueError, match=r"models: got dict as output, want logits \[N, classes\]"):
        forgotten(Dressed(lambda logits: {"scores": logits}))
    with pytest.raises(ValueError, match=r"models: got a tensor of shape \[1, 4, 1\] as output"):
        forgotten(Dressed(lambda logits: logits[..., None]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (X.numpy() * 255).astype(np.uint8)}, "x: got uint8, want a tensor or an array of floats"),
        ({"x": X.tolist()}, "x: got list, want a tensor or an array of floats"),
        ({"x": X.double()}, r"x: got torch.float64, want the dtype of the weights, torch.float32"),
        ({"y": [float(label) for label in Y]}, r"y: got float64 of shape \[20\], want integers"),
        ({"forget": [[0, 1], [2]]}, "forget: got list, want rows of one length"),
        ({"method": "neggrad"}, r"method: got 'neggrad', want a Method or one of \['Bad Teacher'"),
        ({"model": plain().requires_grad_(False)}, "models: got no weight with requires_grad"),
        (
            {"model": plain().bfloat16(), "x": X.bfloat16()},
            r"models: got weights of \['torch.bfloat16'\], want float32",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        forgotten(**({"model": plain()} | change))


def own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(3 * (SIDE - 2) ** 2, CLASSES),
        )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in METHODS if name != "LAF"])
@pytest.mark.parametrize("training", [False, True])
def test_modes_come_back_and_frozen_norms_do_not_move(training, name):
    model = own().train(training)
    model[1].requires_grad_(False).eval()
    before, norms = [t for _, t in modes.of(model)], [copy.deepcopy(model[i].state_dict()) for i in (1, 3)]
    method = METHODS[name]
    unlearn([model], X, Y, FORGET, method, lr=method.grid[1], **SETTINGS)
    assert [t for _, t in modes.of(model)] == before
    kept = [
        all(torch.equal(norms[n][key], v) for key, v in model[i].state_dict().items()) for n, i in enumerate((1, 3))
    ]
    assert kept[0]
    if name in ("fine-tune", "NegGrad+", "random label"):
        assert not kept[1]


def test_modes_come_back_from_a_run_that_fails():
    model = own().eval()
    with pytest.raises(ValueError, match="LAF needs networks with `features`"):
        unlearn([model], X, Y, FORGET, "LAF", lr=0.01, **SETTINGS)
    assert not any(t for _, t in modes.of(model))


def test_dropout_is_a_function_of_the_seed(tmp_path):
    ends = []
    for seed, disturbed in ((0, 1), (0, 2), (1, 1)):
        model = own()
        torch.manual_seed(disturbed)
        forgotten(model, seeds=[seed], epochs=2, batch_size=14)
        ends.append(state(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2], atol=1e-5)
