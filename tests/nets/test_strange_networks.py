"""Networks of a reader's own under quantisers, trainers and scores: the right value, or a refusal that says why."""

import copy
import warnings

import pytest
import torch
from torch import nn

from palimpsest import selection
from palimpsest.nets import modes
from palimpsest.nets.attention import open_attention
from palimpsest.nets.quantised import code_ranges, collapsed, quantise, steps
from palimpsest.training.classifiers import Recipe, accuracy, fit


def drawn(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def transformer():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(80, 3)).eval()


# Attention


@pytest.mark.parametrize("more", [{}, {"batch_first": True}, {"kdim": 12, "vdim": 20}, {"bias": False}], ids=str)
def test_an_open_attention_computes_what_it_did(more):
    closed = drawn(lambda: nn.MultiheadAttention(16, 4, **more)).eval()
    opened = nn.ModuleList([copy.deepcopy(closed)])
    open_attention(opened)
    inputs = noise(3, 5, 16), noise(3, 6, more.get("kdim", 16)), noise(3, 6, more.get("vdim", 16))
    if not closed.batch_first:
        inputs = tuple(x.transpose(0, 1) for x in inputs)
    padding, hidden = torch.zeros(3, 6, dtype=torch.bool), noise(5, 6) < -0.5
    padding[1, 4:], hidden[:, 0] = True, False
    for how in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": hidden, "average_attn_weights": False},
        {"attn_mask": noise(12, 5, 6), "key_padding_mask": padding},
        {"attn_mask": torch.ones(5, 6).triu(1).bool(), "is_causal": True, "need_weights": False},
    ):
        for got, want in zip(opened[0](*inputs, **how), closed(*inputs, **how), strict=True):
            assert (got is None) == (want is None)
            assert got is None or torch.allclose(got, want, atol=2e-6)
    alone = [x[:, 0] if not closed.batch_first else x[0] for x in inputs]
    assert torch.allclose(opened[0](*alone)[0], closed(*alone)[0], atol=2e-6)


def test_a_quantised_transformer_is_quantised_in_evaluation_too():
    model, x = drawn(transformer), noise(8, 5, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left in float
        twin = quantise(model, "W4A4", x)
    assert len(code_ranges(twin)) == 2 * (4 + 2) + 1
    enabled = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        got, floats = twin(x), model(x)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            assert torch.equal(twin(x), got)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
    assert torch.equal(twin(x), got)  # with gradients there is no fast path
    assert not torch.allclose(got, floats, atol=1e-2)
    padding = torch.zeros(8, 5, dtype=torch.bool)
    padding[:, 4] = True
    with torch.no_grad():
        short = twin[0](x, src_key_padding_mask=padding)
    assert torch.allclose(short, twin[0](x, src_key_padding_mask=padding))


def test_attention_with_keys_of_its_own_is_refused():
    model = nn.ModuleDict({"look": nn.MultiheadAttention(16, 4, add_bias_kv=True)})
    with pytest.raises(ValueError, match="model: got 'look' with add_bias_kv or add_zero_attn"):
        open_attention(model)


# Weights that are no parameters, and what stays in float


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        pytest.param(nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore::FutureWarning")),
        nn.utils.spectral_norm,
    ],
)
def test_a_weight_that_is_computed_from_others_is_refused(norm):
    model = nn.Sequential(nn.Linear(4, 4), norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"model: got '1', whose weight is computed from others \(weight_norm"):
        quantise(model, "W4A4", noise(8, 4))


def test_a_warning_names_what_stays_in_float():
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.warns(UserWarning, match=r"quantise leaves in float: 0 \(Conv1d\)$"):
        quantise(model, "W4A4", noise(8, 1, 4), ends=None)


# The steps of quantisers


def test_a_step_is_a_quantisers_and_no_other_parameter_of_that_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.time_step = nn.Linear(4, 4), nn.Parameter(torch.tensor([-3.0]))
            self.weight_step, self.head = nn.Parameter(torch.tensor([0.0])), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)) * self.time_step)

    twin = quantise(drawn(Own), "W4A4", noise(8, 1, 2, 2))
    want = {f"{layer}.{step}" for layer in ("body", "head") for step in ("weight_step", "input_step")}
    assert set(steps(twin)) == want
    assert collapsed(twin) == []
    fit([twin], noise(1, 8, 1, 2, 2), torch.zeros(1, 8, dtype=torch.int64), Recipe(1, 1e-3, 4), seeds=[0])
    assert twin.time_step.item() < -2


# Modes


def with_norms():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def modes_of(model):
    return [training for _, training in modes.of(model)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_fitting_and_asking_give_modes_back_and_move_no_frozen_norm(training, frozen):
    model = drawn(with_norms).train(training)
    if frozen:
        model[1].requires_grad_(False).eval()
    before, state = modes_of(model), copy.deepcopy(model[1].state_dict())
    x, y = noise(1, 12, 1, 4, 4), torch.arange(12)[None] % 3
    fit([model], x, y, Recipe(2, 0.1, 4), seeds=[0])
    accuracy([model], x[0], y[0])
    assert modes_of(model) == before
    assert all(torch.equal(state[name], value) for name, value in model[1].state_dict().items()) == frozen
    twin = quantise(model, "W4A4", x[0])
    assert modes_of(twin) == before


def test_a_part_that_was_put_into_evaluation_mode_stays_there():
    model = drawn(with_norms).train()
    model[5].eval()
    modes.train(model)
    assert [part.training for part in model] == [True] * 5 + [False] + [True] * 2
    modes.train(model.eval())
    assert all(modes_of(model))


def test_dropout_is_a_function_of_the_seeds():
    x, y = noise(1, 12, 1, 4, 4), torch.arange(12)[None] % 3
    ends = []
    for seed, disturbed in ((0, 1), (0, 2), (1, 1)):
        model = drawn(with_norms)
        torch.manual_seed(disturbed)
        state = torch.get_rng_state()
        fit([model], x, y, Recipe(2, 0.1, 12), seeds=[seed])
        assert torch.equal(torch.get_rng_state(), state)
        ends.append(model[7].weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2], atol=1e-4)


# GraNd


def test_gradient_norms_of_a_quantised_network_are_those_of_its_samples():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = noise(5, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    twin = quantise(model, "W4A4", x).eval()
    got = selection.grad_norms(twin, x, y)
    for one, sample, label in zip(got, x, y, strict=True):
        twin.zero_grad()
        nn.functional.cross_entropy(twin(sample[None]), label[None]).backward()
        want = sum(p.grad.square().sum() for p in twin.parameters()).sqrt()
        assert torch.allclose(one, want, rtol=1e-5)
    twin.requires_grad_(False)
    with pytest.raises(ValueError, match="model has no weight with requires_grad"):
        selection.grad_norms(twin, x, y)


def test_logits_that_are_not_numbers_are_no_class():
    """argmax calls them 0, so a network that has diverged was right on every sample of class 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="models: give logits that are not finite"):
        accuracy([model], noise(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64))


def test_gradient_norms_refuse_a_part_in_training_mode_and_inputs_that_are_not_numbers():
    x, y = noise(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    model = with_norms().eval()
    model[4].train()
    with pytest.raises(ValueError, match="model 4 is in training mode"):
        selection.grad_norms(model, x, y)
    with pytest.raises(ValueError, match=r"x is .* wanted a non-empty .* of finite inputs"):
        selection.grad_norms(model.eval(), x * torch.nan, y)
