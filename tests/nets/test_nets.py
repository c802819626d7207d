"""The networks by name, and K of them in lockstep against each of them alone."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from palimpsest import nets, training
from palimpsest.nets.lockstep import Lockstep, Solo, side_by_side
from palimpsest.nets.mobile import InvertedResidual
from palimpsest.nets.residual import BasicBlock

SLIM = ("resnet18-slim", "mobilenetv2-slim")


def parameters(name: str, channels: int, classes: int) -> int:
    model = nets.build(name, channels=channels, classes=classes, seed=0)
    return sum(p.numel() for p in model.parameters())


def test_resnet18_has_the_published_number_of_parameters():
    # A block from a to c channels holds 9ac + 9cc weights and two norms of 2c; a 1×1 shortcut adds ac + 2c.
    #   stage 1, width w:           2·(18w² + 4w)                            =   36w² +   8w
    #   a stage with c = 2a:        (4.5 + 9 + 0.5)c² + 6c and then 18c² + 4c =   32c² +  10c
    #   c = 2w, 4w, 8w:             32·(4 + 16 + 64)w² + 10·(2 + 4 + 8)w     = 2688w² + 140w
    # so the stages hold 2724w² + 148w, which is 11,166,976 at w = 64 and 175,520 at w = 8.
    # The 7×7 stem of the published network on RGB, 9,408 + 128, and its head, 513,000, make 11,689,512: the
    # number in every table. Ours at full width has a 3×3 stem, 9·C·64 + 128, and 512·10 + 10 in the head.
    assert parameters("resnet18", 3, 10) == 11_166_976 + 1_728 + 128 + 5_130 == 11_173_962
    assert parameters("resnet18", 1, 10) == 11_166_976 + 576 + 128 + 5_130
    # The slim one has the 7×7 stem: 49·8 + 16, and 64·10 + 10 in the head.
    assert parameters("resnet18-slim", 1, 10) == 175_520 + 392 + 16 + 650
    with_7x7 = nets.ResNet18(3, 1000)
    assert sum(p.numel() for p in with_7x7.parameters()) == 11_689_512


def test_resnet20_has_the_published_number_of_parameters():
    # A block from a to c channels as above; stage 1 has three of 18·16² + 4·16 = 4,672, and the others
    #   a stage with c = 2a:  14c² + 6c and then 2·(18c² + 4c)  =  50c² + 14c,  for c = 32 and 64.
    # The stem holds 9·C·16 + 32, the head 64·10 + 10. He et al., table 6: 0.27 M.
    stages = 3 * 4_672 + 50 * (32**2 + 64**2) + 14 * (32 + 64)
    assert parameters("resnet20", 3, 10) == stages + 432 + 32 + 650 == 272_474
    assert parameters("resnet20", 1, 10) == stages + 144 + 32 + 650


def test_resnet8_slim_has_the_number_of_parameters_counted_by_hand():
    # One block a stage: 18·8² + 4·8 = 1,184 and then 14c² + 6c for c = 16 and 32 channels; the stem holds 9·C·8 + 16,
    # the head 32·10 + 10.
    stages = 1_184 + 14 * (16**2 + 32**2) + 6 * (16 + 32)
    assert stages == 19_392
    assert parameters("resnet8-slim", 1, 10) == stages + 72 + 16 + 330 == 19_810
    assert parameters("resnet8-slim", 3, 10) == 19_810 + 2 * 72
    # A stem of stride 2: on 28×28 the stages see 14, 7 and 4 pixels a side.
    model = nets.build("resnet8-slim", channels=1, classes=10, seed=0).eval()
    sides, x = [], torch.zeros(1, 1, 28, 28)
    with torch.no_grad():
        for layer in model.body[:-2]:
            x = layer(x)
            sides.append(x.shape[-1])
    assert sides == [14, 14, 14, 14, 7, 4]
    assert len([m for m in model.modules() if isinstance(m, BasicBlock)]) == 3


def test_resnet20_is_the_residual_network_of_three_blocks_and_width_16():
    # 19 convolutions of 3×3 and two shortcuts.
    model = nets.build("resnet20", channels=3, classes=10, seed=0)
    convolutions = [m for m in model.body.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.stride[0]) for c in convolutions if c.kernel_size == (3, 3)] == [
        *[(16, 1)] * 7,
        *([(32, 2)] + [(32, 1)] * 5),
        *([(64, 2)] + [(64, 1)] * 5),
    ]
    assert [c.out_channels for c in convolutions if c.kernel_size == (1, 1)] == [32, 64]


def test_mobilenetv2_has_the_published_number_of_parameters():
    # 3,504,872 with 1,000 classes on RGB, of which 1,280·1,000 + 1,000 are the head: 2,223,872 remain. Ten
    # classes add 12,810; a grey stem has 32·9·2 weights fewer.
    assert parameters("mobilenetv2", 3, 1000) == 3_504_872
    assert parameters("mobilenetv2", 3, 10) == 2_223_872 + 12_810
    assert parameters("mobilenetv2", 1, 10) == 2_223_872 + 12_810 - 576
    # By hand at width 0.25, where the stages have 8, 8, 8, 16, 24, 40, 80 channels. A block a → c with t·a = h
    # holds ah + 2h (if t > 1), 9h + 2h, and hc + 2c. First of a stage + its repeats:
    #   8→8, t=1                 88 + 80             =     168
    #   8→8 ×2, t=6, h=48        480 + 528 + 400     =   1,408 · 2
    #   8→8 ×3                                       =   1,408 · 3
    #   8→16, then 16→16 ×3      480 + 528 + 800; 1,728 + 1,056 + 1,568 (h=96)         = 1,808 + 3·4,352
    #   16→24, then 24→24 ×2     1,728 + 1,056 + 2,352; 3,744 + 1,584 + 3,504 (h=144)  = 5,136 + 2·8,832
    #   24→40, then 40→40 ×2     3,744 + 1,584 + 5,840; 10,080 + 2,640 + 9,680 (h=240) = 11,168 + 2·22,400
    #   40→80                    10,080 + 2,640 + 19,360                               = 32,080
    stages = 168 + 5 * 1_408 + 1_808 + 3 * 4_352 + 5_136 + 2 * 8_832 + 11_168 + 2 * 22_400 + 32_080
    stem, last, head = 9 * 8 + 16, 80 * 320 + 640, 320 * 10 + 10
    assert parameters("mobilenetv2-slim", 1, 10) == stages + stem + last + head


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet18", 512),
        ("resnet18-slim", 64),
        ("resnet20", 64),
        ("resnet8-slim", 32),
        ("mobilenetv2", 1280),
        ("mobilenetv2-slim", 320),
    ],
)
def test_shapes(name, width, channels, side):
    model = nets.build(name, channels=channels, classes=7, seed=0).eval()
    x = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, logits = model.features(x), model(x)
    assert features.shape == (2, width)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model.head(features))


def test_the_published_networks_cost_what_is_published():
    # Multiply-adds on one 224×224 image, which depend on every stride: 1.8 G for ResNet-18 (He et al. 2016, table
    # 1), 300 M for MobileNetV2 (Sandler et al. 2018, table 4), both to the digits that are given.
    for model, published in ((nets.ResNet18(3, 1000), 1.8e9), (nets.MobileNetV2(3, 1000), 300e6)):
        with FlopCounterMode(display=False) as counter:
            model.to("meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
        assert counter.get_total_flops() / 2 == pytest.approx(published, rel=0.01)


def test_blocks_carry_their_input_past_the_branch():
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))

    def silent(block, last_norm):
        nn.init.zeros_(last_norm.weight)
        return block.eval()

    with torch.no_grad():
        block = InvertedResidual(8, 8, 1, 6)
        assert torch.equal(silent(block, block.branch[-1])(x), x)
        for block in (InvertedResidual(8, 16, 1, 6), InvertedResidual(8, 8, 2, 6)):
            assert not silent(block, block.branch[-1])(x).any()
        block = BasicBlock(8, 8, 1)
        assert torch.equal(silent(block, block.norm2)(x), x.relu())
        block = BasicBlock(8, 16, 2)
        assert torch.equal(silent(block, block.norm2)(x), block.shortcut(x).relu())


@pytest.mark.parametrize("name", SLIM)
def test_the_seed_and_nothing_else_decides_the_weights(name):
    def weights(seed: int) -> torch.Tensor:
        model = nets.build(name, channels=1, classes=10, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    first, expected = weights(5), torch.manual_seed(1).get_state()
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)


def test_building_leaves_the_caller_its_random_numbers():
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    nets.build("resnet18-slim", channels=1, classes=10, seed=0)
    assert torch.equal(torch.rand(4), undisturbed)


def test_networks_are_channels_last():
    conv = nets.build("resnet18-slim", channels=3, classes=10, seed=0).body[0]
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"name: got 'resnet19', want one of \['mobilenetv2'"):
        nets.build("resnet19", channels=1, classes=10, seed=0)
    with pytest.raises(ValueError, match="stem: got 'wide', want 'imagenet' or 'small'"):
        nets.ResNet18(1, 10, 8, stem="wide")


# Lockstep. N = 48 in batches of 16: three updates.


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker: sums over several threads may change their order from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


RECIPE = training.Recipe(epochs=1, lr=0.03, batch_size=16)


def start(name: str, seeds, dtype=torch.float32) -> list[nn.Module]:
    return [nets.build(name, channels=1, classes=10, seed=seed).to(dtype) for seed in seeds]


def samples(count: int, n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, n, 1, 28, 28, generator=generator)
    return x, torch.randint(10, (count, n), generator=generator)


def state(model: nn.Module) -> torch.Tensor:
    """Weights and running statistics as one vector."""
    return torch.cat([value.detach().flatten() for value in model.state_dict().values() if value.ndim])


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def rounding(model: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """The number of layers, and x with every value off by one unit in the last place, up or down."""
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules())
    sign = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(9)).mul(2).sub(1).to(x.dtype)
    return layers, x * (1 + torch.finfo(x.dtype).eps * sign)


@pytest.mark.parametrize("name", SLIM)
def test_three_updates_together_equal_those_alone(name):
    # Grouped convolutions may sum in another order. Error model: each layer, forward and backward, commits an
    # error like one unit in the last place of its input, and training amplifies it as it amplifies that error
    # in x, which is measured: 2 · layers · |change from one unit in x|. In double precision, because the
    # amplification is large: in single precision one unit in x moves MobileNetV2-slim by percents.
    x, y = samples(2)
    x, seeds = x.double(), [3, 4]
    together = start(name, seeds, torch.float64)
    history = training.fit(together, x, y, RECIPE, seeds=seeds)
    for k, seed in enumerate(seeds):
        own = {"x": x[k : k + 1], "y": y[k : k + 1], "recipe": RECIPE, "seeds": [seed]}
        (alone,), (before,), (shifted,) = (start(name, [seed], torch.float64) for _ in range(3))
        expected = training.fit([alone], **own)
        layers, off_by_one = rounding(alone, own["x"])
        training.fit([shifted], **{**own, "x": off_by_one})
        for part in (state, weights):
            bound = 2 * layers * (part(shifted) - part(alone)).norm()
            assert 0 < bound < 1e-3 * (part(alone) - part(before)).norm(), "the bound would let much pass"
            assert (part(together[k]) - part(alone)).norm() <= bound
        # A mean of cross-entropies near log 10: the weights' error passes through a few thousand operations.
        assert history.loss[0][k] == pytest.approx(expected.loss[0][0], abs=bound.item())


@pytest.mark.parametrize("name", SLIM)
def test_one_update_together_equals_that_alone_in_single_precision(name):
    # Rounding can flip a ReLU or a max-pooling choice, which moves the update by a few percent; the gradient of
    # another network moves it by its whole length, a mean over two networks in place of a sum by half of it.
    x, y = samples(2, n=32)
    recipe, seeds = training.Recipe(epochs=1, lr=0.01, batch_size=32), [3, 4]
    together = start(name, seeds)
    training.fit(together, x, y, recipe, seeds=seeds)
    for k, seed in enumerate(seeds):
        (alone,), (before,) = start(name, [seed]), start(name, [seed])
        training.fit([alone], x[k : k + 1], y[k : k + 1], recipe, seeds=[seed])
        moved = (weights(alone) - weights(before)).norm()
        assert (weights(together[k]) - weights(alone)).norm() <= 0.25 * moved


@pytest.mark.parametrize("name", SLIM)
def test_two_runs_give_the_same_bits_and_no_group_leaks(name):
    x, y = samples(3, n=32)
    runs = []
    for other in (False, False, True):
        models = start(name, [0, 1, 2])
        if other:
            x, y = x.clone(), y.clone()
            x[1], y[1] = -3 * x[1], (y[1] + 1) % 10
        history = training.fit(models, x, y, RECIPE, seeds=[0, 1, 2])
        runs.append(([state(model) for model in models], torch.tensor(history.loss), history.correct))
    (first, loss, correct), (again, loss_again, correct_again), (changed, loss_changed, correct_changed) = runs
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(loss, loss_again)
    assert torch.equal(correct, correct_again)
    for k in (0, 2):
        assert torch.equal(first[k], changed[k])
        assert torch.equal(loss[:, k], loss_changed[:, k])
        assert torch.equal(correct[:, k], correct_changed[:, k])
    assert not torch.equal(first[1], changed[1])


@pytest.mark.parametrize("name", SLIM)
def test_unpack_gives_every_network_its_own_back(name):
    models = start(name, [0, 1, 2])
    with torch.no_grad():
        for k, model in enumerate(models):
            model.train()(torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(k)))
    before = [state(model) for model in models]
    together = Lockstep(models)
    for model in models:
        for value in model.state_dict().values():
            value.zero_()
    together.unpack()
    assert all(torch.equal(state(model), own) for model, own in zip(models, before, strict=True))


@pytest.mark.parametrize("name", SLIM)
def test_predictions_together_equal_those_alone(name):
    models = start(name, [0, 1])
    x, y = samples(2, n=20)
    training.fit(models, x, y, RECIPE, seeds=[0, 1])  # moves the running statistics off their start
    features, logits = training.predict(models, x, batch_size=7)
    shared, _ = training.predict(models, x[0])
    with torch.no_grad():
        for k, model in enumerate(models):
            model.eval()
            layers, off_by_one = rounding(model, x[k])
            alone, shifted = model.features(x[k]), model.features(off_by_one)
            bound = layers * (shifted - alone).norm()
            assert bound < 1e-3 * alone.norm()
            assert (features[k] - alone).norm() <= bound
            assert (logits[k] - model.head(alone)).norm() <= bound * model.head.weight.norm()
            assert (shared[k] - model.features(x[0])).norm() <= bound


def test_unlike_networks_are_refused():
    with pytest.raises(ValueError, match=r"models: got .*'ResNet18', 'MobileNetV2'.*want at least one, all of one"):
        Lockstep([*start("resnet18-slim", [0]), *start("mobilenetv2-slim", [0])])
    with pytest.raises(ValueError, match=r"models: got \['ResNet18', 'ResNet18'\]"):
        Lockstep([nets.ResNet18(1, 10, 8), nets.ResNet18(1, 10, 16)])
    with pytest.raises(ValueError, match=r"models: got \[\]"):
        Lockstep([])


class Lookalike(nn.Module):
    """A reader's own network: the names are those of `BodyAndHead`, but it halves what the head says."""

    def __init__(self):
        super().__init__()
        network = nets.build("resnet18-slim", channels=1, classes=10, seed=0)
        self.body, self.head = network.body, network.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) / 2


class Halved(nets.ResNet18):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


class Masked(nets.ResNet18):
    def features(self, x: torch.Tensor) -> torch.Tensor:
        return super().features(x) * 0


@pytest.mark.parametrize("own", [Lookalike, lambda: Halved(1, 10, 8), lambda: Masked(1, 10, 8)])
def test_a_network_that_computes_more_than_its_two_parts_is_never_taken_apart(own):
    model, x = own().eval(), samples(1, n=4)[0]
    together = side_by_side([model])
    assert isinstance(together, Solo)
    with torch.no_grad():
        assert torch.equal(training.logits([model], x)[0], model(x[0]))
    assert not model.training
    with pytest.raises(ValueError, match=r"^models: got \w+ among 2, want networks that are `nets.BodyAndHead`"):
        side_by_side([model, own()])
    assert isinstance(side_by_side(start("resnet18-slim", [0])), Lockstep)


def test_a_body_with_weights_that_cannot_be_grouped_is_refused_by_layer():
    model = start("resnet18-slim", [0])[0]
    model.body.append(nn.Linear(64, 64))
    with pytest.raises(ValueError, match=r"^models: got Linear as layer '\d+' of the body"):
        Lockstep([model])
