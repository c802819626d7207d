"""Quantised networks: what `quantise` changes, that its codes are what training used, and K of them in lockstep."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest import nets, training
from palimpsest.nets import quantised
from palimpsest.nets.lockstep import Lockstep
from palimpsest.nets.quantised import PRECISIONS, codes, quantise

SLIM = ("resnet18-slim", "mobilenetv2-slim")


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker: sums over several threads may change their order from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Own(nn.Module):
    """A reader's network: nested, a layer that runs twice, one that never runs, one of a class of its own."""

    class Scaled(nn.Linear):
        pass

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.never = nn.Linear(3, 3)
            self.classify = nn.Linear(6, 5)
            self.block = nn.ModuleDict({"conv": nn.Conv2d(2, 6, 3), "norm": nn.BatchNorm2d(6)})
            self.twice = nn.Linear(6, 6)
            self.own = self.Scaled(6, 6)

    def forward(self, x):
        x = self.block["norm"](self.block["conv"](x)).relu().mean((2, 3))
        return self.classify(self.own(self.twice(self.twice(x))).relu())


def images(count: int, channels: int = 1, side: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def slim(name: str, bits, seed: int = 0, **options) -> nn.Module:
    model = nets.build(name, channels=1, classes=10, seed=seed)
    return quantise(model, bits, images(8), **options)


def without_ties(model: nn.Module) -> nn.Module:
    """`model` with mean pools for its max pools. Integer weights and inputs make equal sums, and which of them a max
    pool takes, and passes the gradient to, is up to the last digit of the processor."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return model


def ranges(model: nn.Module) -> dict[str, tuple]:
    return {n: (m.weight_range, m.input_range) for n, m in model.named_modules() if hasattr(m, "weight_range")}


# What is replaced, and by what.


def test_a_network_of_the_readers_own_is_quantised():
    model, x = Own(), images(16, 2, 6)
    twin = quantise(model, "W4A8", x)
    assert list(ranges(twin)) == ["classify", "block.conv", "twice"]
    assert type(twin.never) is nn.Linear
    assert type(twin.own) is Own.Scaled
    # The first and last layers that *ran* have 8 bits, the image is signed, what follows a ReLU is not.
    assert ranges(twin)["block.conv"] == ((-128, 127), (-128, 127))
    assert ranges(twin)["classify"] == ((-128, 127), (0, 255))
    assert twin(x).shape == (16, 5)


def test_a_layer_that_runs_twice_is_signed_if_any_of_its_inputs_is_negative():
    # `twice` sees the non-negative mean of a ReLU first and its own output, of both signs, afterwards.
    assert ranges(quantise(Own(), (4, 4), images(16, 2, 6)))["twice"] == ((-8, 7), (-8, 7))


def test_bits_have_names_or_are_a_pair():
    assert {name: ranges(slim("resnet18-slim", name))["body.4.conv1"] for name in PRECISIONS} == {
        "W8A8": ((-128, 127), (0, 255)),
        "W4A8": ((-8, 7), (0, 255)),
        "W4A4": ((-8, 7), (0, 15)),
        "W2A2": ((-2, 1), (0, 3)),
    }
    assert ranges(slim("resnet18-slim", (3, 5)))["body.4.conv1"] == ((-4, 3), (0, 31))


@pytest.mark.parametrize(("ends", "count"), [(8, 21), (3, 21), (None, 19)])
def test_the_first_and_last_layer_have_a_precision_of_their_own(ends, count):
    # ResNet-18: a stem, 16 convolutions in blocks, 3 on shortcuts, a head.
    twin = slim("resnet18-slim", "W2A2", ends=ends)
    found = ranges(twin)
    assert len(found) == count
    assert (type(twin.body[0]) is nn.Conv2d) == (type(twin.head) is nn.Linear) == (ends is None)
    middle = [value for name, value in found.items() if name not in ("body.0", "head")]
    assert set(middle) == {((-2, 1), (0, 3))}
    if ends is not None:
        top = 2 ** (ends - 1)
        assert found["body.0"] == ((-top, top - 1), (-top, top - 1))
        assert found["head"] == ((-top, top - 1), (0, 2 * top - 1))


def test_linear_bottlenecks_are_signed_and_activations_are_not():
    twin = slim("mobilenetv2-slim", "W4A4")
    signed = {name for name, (_, (low, _)) in ranges(twin).items() if low < 0}
    # Signed: the image, and the first 1×1 convolution of every block that expands (16 of 17), and the last one.
    expand = {name for name, m in twin.named_modules() if hasattr(m, "weight_range") and name.endswith("branch.0")}
    expand -= {n for n in expand if twin.get_submodule(n).groups > 1}  # the block without expansion begins depthwise
    assert len(expand) == 16
    assert signed == {"body.0", "body.20", *expand}


def test_first_steps_are_those_of_the_paper():
    # 2 · mean|v| / √Q_P over the weight, and over the calibration input of the layer.
    model, x = Own(), images(16, 2, 6)
    twin = quantise(model, "W4A4", x)
    with torch.no_grad():
        hidden = model.eval().block["norm"](model.block["conv"](x)).relu().mean((2, 3))
    expected = {
        "block.conv.weight_step": 2 * model.block["conv"].weight.abs().mean() / 127**0.5,
        "block.conv.input_step": 2 * x.abs().mean() / 127**0.5,
        "twice.weight_step": 2 * model.twice.weight.abs().mean() / 7**0.5,
        "twice.input_step": 2 * hidden.abs().mean() / 7**0.5,  # of its first run
    }
    for name, value in expected.items():
        torch.testing.assert_close(twin.get_parameter(name).detach(), value.detach().view(1))


def test_the_given_model_is_left_as_it_was():
    model, x = Own().train(), images(16, 2, 6)
    before, names = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    twin = quantise(model, "W4A4", x)
    assert model.training
    assert twin.training
    assert [type(m) for m in model.modules()] == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in (*model.modules(), *twin.modules()))
    with torch.no_grad():
        twin.twice.weight.zero_()
    assert torch.equal(model.twice.weight, before["twice.weight"])
    assert not quantise(model.eval(), "W4A4", x).training


def test_steps_have_the_dtype_of_the_weights():
    twin = quantise(Own().double(), "W4A4", images(4, 2, 6).double())
    assert {p.dtype for p in quantised.steps(twin).values()} == {torch.float64}


# Codes are what training used.


@pytest.mark.parametrize("ends", [8, None])
@pytest.mark.parametrize("bits", PRECISIONS)
@pytest.mark.parametrize("name", SLIM)
def test_codes_times_step_are_the_rounded_weights_bit_for_bit(name, bits, ends):
    twin = slim(name, bits, ends=ends)
    found = codes(twin)
    assert list(found) == list(ranges(twin))
    for layer, values in found.items():
        module = twin.get_submodule(layer)
        low, high = module.weight_range
        assert values.dtype == torch.int8
        assert values.shape == module.weight.shape
        assert low <= values.min() <= values.max() <= high
        assert torch.equal(values * module.weight_step, module.rounded_weight())
        assert len(values.unique()) > 1


def test_a_network_of_codes_answers_with_the_same_bits():
    # Deploy: float layers that hold codes × step, behind a rounding of their inputs.
    twin = slim("resnet18-slim", "W4A4").eval()
    x = images(4, seed=1)
    with torch.no_grad():
        expected = twin(x)
        found = codes(twin)
        for name, values in found.items():
            layer = twin.get_submodule(name)
            layer.weight.copy_(values * layer.weight_step)
            layer.rounded_weight = lambda layer=layer: layer.weight
        assert torch.equal(twin(x), expected)


def test_a_quantised_layer_by_hand():
    layer = quantise(nn.Sequential(nn.Linear(2, 1)), (4, 4), torch.tensor([[1.0, -1.0]]), ends=4)[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.6, -9.0]]))
        layer.bias.fill_(0.25)
        layer.weight_step.fill_(0.5)
        layer.input_step.fill_(0.25)
        # 0.6 -> code 1 = 0.5; -9 -> code -8 = -4. Inputs 0.3 -> 0.25, 5 -> code 7 = 1.75.
        assert layer(torch.tensor([[0.3, 5.0]])).item() == 0.5 * 0.25 - 4 * 1.75 + 0.25
    assert codes(nn.Sequential(layer))["0"].tolist() == [[1, -8]]


# Lockstep.


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [N, classes] in training mode and the gradient of the mean cross-entropy, by parameter."""
    logits = model(x)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(F.cross_entropy(logits, y), list(named.values()))
    return logits.detach(), dict(zip(named, found, strict=True))


@pytest.mark.parametrize("bits", ["W4A4", "W2A2"])
@pytest.mark.parametrize("name", SLIM)
def test_outputs_and_gradients_together_equal_those_alone(name, bits):
    # In double precision, where a rounding that falls on the other side is out of the question. Error model: each
    # layer commits an error like one unit in the last place of what it passes on; batch norm is the float part
    # that quantisation does not swallow, so a unit in the last place of its weights measures the amplification:
    # 2 · layers · |change|. The step gradients count n of *one* network: counting both is off by a factor √2.
    models = [without_ties(slim(name, bits, seed)).double() for seed in (3, 4)]
    x = torch.stack([images(6, seed=k) for k in (5, 6)]).double()
    y = torch.randint(10, (2, 6), generator=torch.Generator().manual_seed(7))
    together = Lockstep(models).train()
    logits = together(x.transpose(0, 1))
    loss = sum(F.cross_entropy(logits[:, k], y[k]) for k in range(2))
    found = dict(together.named_parameters())
    joined = dict(zip(found, torch.autograd.grad(loss, list(found.values())), strict=True))
    for k, model in enumerate(models):
        expected_logits, expected = gradients(model.train(), x[k], y[k])
        noisy = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(8)
        with torch.no_grad():
            for norm in (m for m in noisy.modules() if isinstance(m, nn.BatchNorm2d)):
                sign = torch.randint(0, 2, norm.weight.shape, generator=generator).mul(2).sub(1)
                norm.weight *= 1 + torch.finfo(torch.float64).eps * sign
        shifted_logits, shifted = gradients(noisy, x[k], y[k])
        layers = len(codes(model))

        def close(a, b, off, what, layers=layers):
            bound = 2 * layers * (off - b).norm() + 8 * layers * torch.finfo(torch.float64).eps * b.norm()
            assert bound < 1e-6 * b.norm(), f"{what}: the bound would let much pass"
            assert (a - b).norm() <= bound, what

        close(logits[:, k].detach(), expected_logits, shifted_logits, "logits")
        body = {n: torch.cat([g.flatten() for g in (joined[n].chunk(2)[k],)]) for n in joined if "head" not in n}
        head = {n: joined[n][k].flatten() for n in joined if "head" in n}
        assert {*body, *head} == {*expected}
        for kind in ("weight_step", "input_step", "weight", "bias"):
            names = [n for n in expected if n.rpartition(".")[2] == kind]
            parts = [torch.cat([g[n].flatten() for n in names]) for g in (body | head, expected, shifted)]
            close(*parts, f"gradient of every {kind}")


def test_training_together_equals_training_alone_and_unpacks():
    # Double precision leaves ten digits between its rounding and a millionth of what three updates move; the
    # gradient of another network, or a step gradient that counts both, moves the networks by percents.
    recipe = training.Recipe(epochs=1, lr=1e-5, batch_size=8)
    x = torch.stack([images(24, seed=k) for k in (5, 6)]).double()
    y = torch.randint(10, (2, 24), generator=torch.Generator().manual_seed(7))

    def start(k: int) -> nn.Module:
        return without_ties(slim("resnet18-slim", "W4A4", seed=k)).double()

    def state(model: nn.Module) -> torch.Tensor:
        return torch.cat([v.detach().flatten() for v in model.state_dict().values() if v.ndim])

    def step_sizes(model: nn.Module) -> torch.Tensor:
        return torch.cat([p.detach() for p in quantised.steps(model).values()])

    together = [start(0), start(1)]
    training.fit(together, x, y, recipe, seeds=[0, 1])
    for k in range(2):
        alone = start(k)
        training.fit([alone], x[k : k + 1], y[k : k + 1], recipe, seeds=[k])
        for part in (state, step_sizes):
            assert (part(together[k]) - part(alone)).norm() <= 1e-6 * (part(alone) - part(start(k))).norm()
        assert len(step_sizes(alone)) == 2 * 21
        assert (step_sizes(together[k]) != step_sizes(start(k))).all(), "a step was not trained"
        with torch.no_grad():
            grouped = Lockstep(together).eval()(x[:, :4].transpose(0, 1))[:, k]
            torch.testing.assert_close(together[k].eval()(x[k, :4]), grouped)


def test_unlike_precisions_are_refused():
    for other in ("W4A8", "W8A8", (2, 4), (4, 2)):  # activations, both, weights only, activations only
        with pytest.raises(ValueError, match=r"models: .*all of one architecture, width and precision"):
            Lockstep([slim("resnet18-slim", "W4A4"), slim("resnet18-slim", other)])
    with pytest.raises(ValueError, match="want at least one, all of one architecture, width and precision"):
        Lockstep([slim("resnet18-slim", "W4A4"), nets.build("resnet18-slim", channels=1, classes=10, seed=0)])
    with pytest.raises(ValueError, match="want at least one, all of one architecture, width and precision"):
        Lockstep([slim("resnet18-slim", "W4A4"), slim("resnet18-slim", "W4A4", ends=None)])


# Steps in training.

ONE_STEP = {"epochs": 1, "batch_size": 8, "steps": 1}


def one_update(lr: float, decay: float = 0.0, change=None) -> nn.Module:
    model = slim("resnet18-slim", "W4A4")
    if change:
        change(model)
    y = torch.arange(8)[None]
    recipe = training.Recipe(**ONE_STEP, lr=lr, weight_decay=decay)
    training.fit([model], images(8)[None], y, recipe, seeds=[0])
    return model


def test_steps_have_no_weight_decay():
    plain, decayed = one_update(0.001), one_update(0.001, 0.5)
    start = dict(slim("resnet18-slim", "W4A4").named_parameters())
    for (name, a), b in zip(plain.named_parameters(), decayed.parameters(), strict=True):
        assert torch.equal(a, b) == (name.endswith("_step") or not start[name].any()), name
    groups = training.decay_groups(plain, 0.5)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert len(groups[1]["params"]) == 2 * 21
    assert len(training.decay_groups(Own(), 0.5)) == 1


def test_a_collapsed_step_stops_training_and_says_which():
    def collapse(model):
        model.body[5].conv2.weight_step.data.fill_(quantised.COLLAPSE)
        model.body[5].conv2.weight_step.requires_grad_(False)

    with pytest.raises(training.TrainingDiverged, match=r"step body\.5\.conv2\.weight_step collapsed"):
        one_update(1e-12, change=collapse)


def test_a_step_never_goes_below_the_clamp_and_a_large_lr_collapses_it():
    with pytest.raises(training.TrainingDiverged, match=r"in epoch 1 of 1 at lr 100\.0: .* collapsed to zero"):
        one_update(100.0)
    model = slim("resnet18-slim", "W4A4")
    for step in quantised.steps(model).values():
        step.data.fill_(-1.0)
    assert quantised.hold_steps(list(quantised.steps(model).values()))
    assert {step.item() for step in quantised.steps(model).values()} == {torch.tensor(quantised.COLLAPSE).item()}
    assert len(quantised.collapsed(model)) == 2 * 21
    assert quantised.hold_steps([])
    model.head.weight_step.data.fill_(math.nan)
    assert not quantised.hold_steps(list(quantised.steps(model).values()))


def test_overflow_within_an_epoch_is_divergence_not_a_complaint_of_the_kernel():
    # The first update leaves infinite steps, which the next forward pass would refuse.
    x, y = images(24)[None], torch.arange(24)[None] % 10
    recipe = training.Recipe(epochs=1, lr=1e38, batch_size=8)
    with pytest.raises(training.TrainingDiverged, match=r"in epoch 1 of 1 at lr 1e\+38: "):
        training.fit([slim("resnet18-slim", "W4A4")], x, y, recipe, seeds=[0])


# Bad input.


@pytest.mark.parametrize("bits", [(1, 4), (4, 9), (4, 0), (4.0, 4), (True, 4), ("4", 4), (4,), (4, 4, 4), 4, None])
def test_bits_that_cannot_be_meant_are_refused(bits):
    with pytest.raises(ValueError, match=r"^bits: got "):
        quantise(Own(), bits, images(2, 2, 6))


def test_other_bad_input_is_refused_by_name():
    x = images(2, 2, 6)
    with pytest.raises(ValueError, match=r"bits: got 'W3A3', want one of \['W2A2'.* or a pair of integers"):
        quantise(Own(), "W3A3", x)
    for ends in (1, 9, "8", 4.5):
        with pytest.raises(ValueError, match=f"bits: got {ends!r}, want an integer from 2 to 8"):
            quantise(Own(), "W4A4", x, ends=ends)
    with pytest.raises(ValueError, match=r"calibration: got shape \[0, 2, 6, 6\], want at least one finite sample"):
        quantise(Own(), "W4A4", x[:0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"calibration: got .* want at least one finite sample"):
            quantise(Own(), "W4A4", x.clone().index_fill_(0, torch.tensor(1), bad))
    for model in (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(72)), quantise(nn.Linear(6, 2), "W4A4", x)):
        with pytest.raises(ValueError, match=f"model: got {type(model).__name__}, in which no Conv2d or Linear"):
            quantise(model, "W4A4", x)
