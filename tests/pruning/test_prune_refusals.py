"""What `prune` and `random_masks` refuse, and that a model comes back as it was from anything but success."""

import copy

import pytest
import torch
from decoders import VOCABULARY, decoder, tokens
from torch import nn

from palimpsest.pruning import prune, random_masks, wanda


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "obs"}, "method: got 'obs', want one of"),
        ({"sparsity": 0}, "sparsity: got 0,"),
        ({"sparsity": 1.0}, "sparsity: got 1.0,"),
        ({"sparsity": 0.001}, "sparsity: 0.001 prunes 0 of 32"),
        ({"sparsity": "2:5"}, "sparsity: got groups of 5, want a divisor of the 32 inputs"),
        ({"sparsity": "2:5", "method": "sparsegpt"}, "sparsity: got groups of 5, want a divisor of the 32 inputs"),
        ({"seed": -1}, "seed: got -1"),
        ({"calibration_ids": None}, "calibration_ids: got NoneType"),
        ({"calibration_ids": torch.zeros(3, 4)}, r"calibration_ids: got torch.float32 \[3, 4\]"),
        ({"calibration_ids": torch.zeros(4, dtype=torch.int64)}, r"calibration_ids: got torch.int64 \[4\]"),
        ({"calibration_ids": torch.zeros(0, 4, dtype=torch.int64)}, r"calibration_ids: got torch.int64 \[0, 4\]"),
        (
            {"calibration_ids": torch.tensor([[1, VOCABULARY]])},
            "calibration_ids: got tokens from 1 to 60, want 0 to 59",
        ),
        ({"calibration_ids": torch.tensor([[-1, 5]])}, "calibration_ids: got tokens from -1 to 5"),
        ({"model": nn.Linear(3, 3)}, "model: got Linear, want a transformers decoder"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, message):
    model = decoder()
    before = copy.deepcopy(model).state_dict()
    given = {"model": model, "calibration_ids": tokens(), "method": "wanda", "sparsity": 0.5} | changed
    with pytest.raises(ValueError, match=message):
        prune(given.pop("model"), given.pop("calibration_ids"), **given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("share", [0, 1, -0.5, True, "half"])
def test_a_share_that_means_nothing_is_refused(share):
    with pytest.raises(ValueError, match="share: got"):
        random_masks(decoder(), share, 0)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_activations_that_are_not_finite_are_refused_and_the_model_is_given_back(method):
    model, ids = decoder(), tokens()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = float("inf")  # the first layer is pruned by then
    before = copy.deepcopy(model).state_dict()
    with pytest.raises(
        ValueError, match=r"calibration_ids: the inputs of model\.layers\.1\.self_attn\.q_proj\.weight"
    ):
        prune(model.train(), ids, method=method, sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_weights_that_are_not_finite_are_refused():
    model = decoder()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model: model\.layers\.1\.mlp\.down_proj\.weight has values"):
        prune(model, None, method="magnitude", sparsity=0.5)


def test_a_linear_map_that_no_token_reaches_is_refused():
    model = decoder()
    model.model.layers[0].mlp.spare = nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"no token reaches model\.layers\.0\.mlp\.spare\.weight"):
        prune(model, tokens(), method="wanda", sparsity=0.5)


def test_an_interrupt_gives_the_model_back(monkeypatch):
    model = decoder()
    before = copy.deepcopy(model).state_dict()
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return wanda.mask(*arguments)

    monkeypatch.setattr("palimpsest.pruning.registry.wanda.mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune(model, tokens(), method="wanda", sparsity=0.5)
    assert len(calls) == 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
