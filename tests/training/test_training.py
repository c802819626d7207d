"""The training loop: its schedule, its batches, what it records, and that stopping it changes nothing."""

import errno
import math
import resource

import pytest
import torch
from torch import nn

from palimpsest import training
from palimpsest.nets import BodyAndHead
from palimpsest.nets.lockstep import Lockstep
from palimpsest.runs import seals
from palimpsest.training import History, Recipe, TrainingDiverged, checkpoints, epoch_order, fit

CLASSES, SIDE = 4, 6


class Small(BodyAndHead):
    """A network of milliseconds: one convolution with batch norm, or none (then a sample's logits are its own)."""

    def __init__(self, seed: int, conv: bool = True, width: int = 3):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()] if conv else []
            self.body = nn.Sequential(*layers, nn.Flatten())
            self.head = nn.Linear(width * (SIDE - 2) ** 2 if conv else SIDE**2, CLASSES)


def data(networks: int = 2, samples: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, samples, 1, SIDE, SIDE, generator=generator)
    return x, torch.randint(CLASSES, (networks, samples), generator=generator)


def bits(models: list[nn.Module]) -> list[torch.Tensor]:
    return [value.clone() for model in models for value in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def steps(monkeypatch) -> list[float]:
    """The step size of every update, in order."""
    seen = []
    step = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    return seen


@pytest.fixture
def batch_sizes(monkeypatch) -> list[int]:
    seen = []
    forward = Lockstep.forward

    def watched(self, x):
        if self.training:
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Lockstep, "forward", watched)
    return seen


# Length, schedule, batches.


def test_the_step_size_follows_half_a_cosine(steps):
    fit([Small(0)], *data(1, 8), Recipe(epochs=2, lr=0.5, batch_size=4), seeds=[0])
    # Four updates: cos 0, π/4, π/2, 3π/4, each plus one and halved.
    half = math.sqrt(0.5)
    assert steps == pytest.approx([0.5, 0.25 * (1 + half), 0.25, 0.25 * (1 - half)], rel=1e-12)


def test_steps_replace_epochs_as_the_length_of_the_run(steps):
    # 10 samples in batches of 4 are three updates an epoch, of 4, 3 and 3; seven updates end in the third.
    recipe = Recipe(epochs=1, lr=0.1, batch_size=4, steps=7)
    history = fit([Small(0)], *data(1), recipe, seeds=[0])
    assert len(steps) == recipe.total_steps(10) == 7
    assert steps[-1] == pytest.approx(0.05 * (1 + math.cos(math.pi * 6 / 7)), rel=1e-12)
    assert len(history.loss) == 3
    assert history.correct.shape == (3, 1, 10)
    unseen = epoch_order(10, 0, 2)[4:]
    assert not history.correct[2, 0, unseen].any()


def test_a_subset_can_be_matched_to_the_full_set_by_steps(steps):
    # 40 samples, 3 epochs of 10 batches; half of them in 5 batches need 6 epochs for as many updates.
    full = Recipe(epochs=3, lr=0.1, batch_size=4)
    assert full.total_steps(40) == 30
    matched = Recipe(epochs=3, lr=0.1, batch_size=4, steps=full.total_steps(40))
    history = fit([Small(0)], *data(1, 20), matched, seeds=[0])
    assert (len(steps), len(history.loss)) == (30, 6)


def test_no_batch_has_one_sample_or_too_many(batch_sizes):
    for samples in range(2, 14):
        for batch_size in (2, 3, 4, 5):
            batch_sizes.clear()
            recipe = Recipe(epochs=1, lr=0.1, batch_size=batch_size)
            history = fit([Small(0)], *data(1, samples), recipe, seeds=[0])
            assert sum(batch_sizes) == samples
            assert len(batch_sizes) == recipe.batches(samples)
            # The odd sample of batches of two makes one of three.
            assert 2 <= min(batch_sizes) <= max(batch_sizes) <= max(batch_size, 3)
            assert math.isfinite(history.loss[0][0])


def test_epoch_order_is_a_function_of_its_arguments():
    torch.manual_seed(0)
    first = epoch_order(50, 3, 1)
    torch.manual_seed(1)
    assert torch.equal(first, epoch_order(50, 3, 1))
    assert torch.equal(first.sort().values, torch.arange(50))
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(-1, 5)}
    assert len(orders) == 30


def test_every_network_draws_its_batches_from_its_own_seed():
    x, y = data(1)
    x, y = x.expand(2, -1, -1, -1, -1), y.expand(2, -1)
    alike, other = [Small(0), Small(0)], [Small(0), Small(0)]
    recipe = Recipe(epochs=1, lr=0.1, batch_size=4)
    fit(alike, x, y, recipe, seeds=[5, 5])
    fit(other, x, y, recipe, seeds=[5, 6])
    assert torch.equal(alike[0].head.weight, alike[1].head.weight)
    assert torch.equal(alike[0].head.weight, other[0].head.weight)
    assert not torch.equal(other[0].head.weight, other[1].head.weight)


def test_the_recipe_is_sgd_with_nesterov_momentum_and_decay():
    # One update of a linear network on two samples with zero weights: p = 1/4 everywhere. The head's bias has
    # gradient mean(p - onehot) = (-1/4, -1/4, 1/4, 1/4) for labels 0 and 1; a first step of Nesterov momentum
    # 0.9 takes it 1 + 0.9 times. Decay adds 0.1·1 where a weight was 1.
    model = Small(0, conv=False)
    nn.init.zeros_(model.head.weight)
    nn.init.ones_(model.head.bias)
    x = torch.ones(1, 2, 1, SIDE, SIDE)
    fit([model], x, torch.tensor([[0, 1]]), Recipe(epochs=1, lr=0.5, weight_decay=0.1), seeds=[0])
    gradient = torch.tensor([-0.25, -0.25, 0.25, 0.25])
    expected = 1 - 0.5 * 1.9 * (gradient + 0.1)
    torch.testing.assert_close(model.head.bias.detach(), expected, rtol=4 * torch.finfo(torch.float32).eps, atol=0)


# What is recorded.


def test_correct_is_what_the_forward_pass_of_training_saw():
    # One batch an epoch and no batch norm: in epoch e a sample meets the weights that epoch e - 1 left.
    x, y = data(2, 12)
    models = [Small(0, conv=False), Small(1, conv=False)]
    before = [training.predict(models, x)[1].argmax(2) == y]

    def keep(epoch: int) -> None:
        before.append(training.predict(models, x)[1].argmax(2) == y)

    history = fit(models, x, y, Recipe(epochs=4, lr=0.3, batch_size=12), seeds=[0, 1], on_epoch=keep)
    assert torch.equal(history.correct, torch.stack(before[:4]))
    assert not torch.equal(before[0], before[3]), "nothing was learned: the test would see no difference"


def test_loss_is_the_mean_of_each_epoch_by_network():
    # With a step size too small to move a weight, the loss of an epoch in one batch is that of the start.
    x, y = data(2, 6)
    models = [Small(0, conv=False), Small(1, conv=False)]
    logits = training.predict(models, x)[1]
    expected = [nn.functional.cross_entropy(logits[k], y[k]).item() for k in range(2)]
    history = fit(models, x, y, Recipe(epochs=2, lr=1e-30, batch_size=6), seeds=[0, 1])
    assert history.loss == [pytest.approx(expected, rel=1e-5)] * 2


def test_on_epoch_sees_the_weights_of_its_epoch():
    models, seen = [Small(0)], []
    x, y = data(1)
    recipe = Recipe(epochs=3, lr=0.1, batch_size=4)
    fit(models, x, y, recipe, seeds=[0], on_epoch=lambda epoch: seen.append((epoch, bits(models))))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert same(seen[2][1], bits(models))
    assert not same(seen[1][1], seen[2][1])


def test_accuracy_by_hand():
    models = [Small(0, conv=False), Small(1, conv=False)]
    for k, model in enumerate(models):
        nn.init.zeros_(model.head.weight)
        model.head.bias.data = torch.eye(CLASSES)[k]  # network k always answers k
    x, _ = data(1, 4)
    assert training.accuracy(models, x[0], torch.tensor([0, 0, 0, 1])) == [0.75, 0.25]


# Stopping.


class Stopped(Exception):
    pass


RECIPE = Recipe(epochs=4, lr=0.1, batch_size=4)


def run(folder, **changes) -> tuple[list[torch.Tensor], History]:
    models = changes.pop("models", None) or [Small(0), Small(1)]
    x, y = changes.pop("data", data())
    history = fit(models, x, y, changes.pop("recipe", RECIPE), seeds=changes.pop("seeds", [0, 1]),
                  checkpoint=folder, **changes)  # fmt: skip
    return bits(models), history


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, steps, last):
    def stop(epoch: int) -> None:
        if epoch == last:
            raise Stopped

    expected, history = run(None)
    with pytest.raises(Stopped):
        run(tmp_path, on_epoch=stop)
    steps.clear()
    resumed, continued = run(tmp_path)
    assert same(resumed, expected)
    assert continued.loss == history.loss
    assert torch.equal(continued.correct, history.correct)
    assert len(steps) == 3 * (4 - last), "epochs that were finished are not trained again"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-0004.safetensors", "state.json"]


@pytest.mark.parametrize("fails", ["epoch-0002.safetensors", "state.json"])
@pytest.mark.parametrize("moment", ["before the move", "after the move"])
def test_a_kill_while_saving_leaves_a_state_that_loads(tmp_path, monkeypatch, fails, moment):
    expected, history = run(None)
    write, calls = checkpoints.write_atomic, []

    def killed(path, writer):
        calls.append(path.name)
        if len(calls) > 2 and path.name == fails:  # in the second epoch
            if moment == "after the move":
                write(path, writer)
            raise Stopped
        write(path, writer)

    with monkeypatch.context() as patch:
        for module in (checkpoints, seals):  # of the tensors, of the rest
            patch.setattr(module, "write_atomic", killed)
        with pytest.raises(Stopped):
            run(tmp_path)
    assert (tmp_path / "epoch-0001.safetensors").exists()
    resumed, continued = run(tmp_path)
    assert same(resumed, expected)
    assert continued.loss == history.loss
    assert [file.name for file in tmp_path.glob("epoch-*")] == ["epoch-0004.safetensors"]


def test_the_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    run(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    x, y = data()
    others = {
        "recipe": {"recipe": Recipe(epochs=5, lr=0.1, batch_size=4)},
        "seeds": {"seeds": [0, 2]},
        "data": {"data": (x.flip(1), y.flip(1))},
        "start": {"models": [Small(0), Small(7)]},
    }
    for key, change in others.items():
        with pytest.raises(ValueError, match=rf"checkpoint: {tmp_path} belongs to another run \({key}: "):
            run(tmp_path, **change)
    with pytest.raises(ValueError, match=r"belongs to another run \(data: "):
        run(tmp_path, data=(x, (y + 1) % CLASSES))
    with pytest.raises(ValueError, match=r"belongs to another run \(start: "):
        run(tmp_path, models=[Small(0, width=5), Small(1, width=5)])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("limit", [100, 2000])  # bytes a file may have: the weights, of about 8,000, are refused
def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=f"could not write {tmp_path}/epoch-0001.safetensors") as refused:
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_named_and_keeps_the_last_good_checkpoint(tmp_path):
    # Finite weights at the start; with a step size of 1e30 the second forward pass overflows.
    with pytest.raises(TrainingDiverged, match=r"^in epoch 1 of 4 at lr 1e\+30: .*; a smaller lr is needed$"):
        run(tmp_path, recipe=Recipe(epochs=4, lr=1e30, batch_size=4))
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_in_the_last_update_is_divergence_too():
    # One update: its loss is finite, the weights that it leaves are not (gradients of 1e9, a step of 1e35).
    x, y = data(1, 4)
    with pytest.raises(TrainingDiverged, match="epoch 1 of 1"):
        fit([Small(0, conv=False)], 1e9 * x, y, Recipe(epochs=1, lr=1e35, batch_size=4), seeds=[0])


# Bad input.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", bad) for bad in (0, -1, 1.5, "3", None, True)),
        *(("batch_size", bad) for bad in (0, 1, 2.0)),
        *(("steps", bad) for bad in (0, -3, 1.0, False)),
        *(("lr", bad) for bad in (0, -0.1, math.nan, math.inf, "0.1", None)),
        *(("momentum", bad) for bad in (-0.1, math.nan)),
        *(("weight_decay", bad) for bad in (-1e-4, math.inf)),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value!r}, want "):
        Recipe(**{"epochs": 1, "lr": 0.1, name: value})


def test_bad_arguments_of_fit_are_refused_by_name():
    x, y = data()
    recipe = Recipe(epochs=1, lr=0.1)

    def refused(match, models=None, x=x, y=y, seeds=(0, 1)):
        with pytest.raises(ValueError, match=match):
            fit(models or [Small(0), Small(1)], x, y, recipe, seeds=list(seeds))

    refused("models, x, y, seeds: got 1 models", models=[Small(0)])
    refused("models, x, y, seeds: .* 3 seeds", seeds=(0, 1, 2))
    refused(r"models, x, y, seeds: .*want K models, \[K, N, C, H, W\]", x=x[0])
    refused(r"models, x, y, seeds: .*\(2, 9\)", y=y[:, :9])
    refused("models, x, y, seeds: .*N at least 2", x=x[:, :1], y=y[:, :1])
    refused("x: got NaN or infinite", x=x / 0)
    refused(
        r"y: got torch.int64 values in 0 \.\. 4, want int64 in 0 \.\. 3",
        y=y.clone().index_fill_(1, torch.tensor(3), 4),
    )
    refused("y: got torch.int64 values in -1", y=y.clone().index_fill_(1, torch.tensor(3), -1))
    refused("y: got torch.float32", y=y.float())


def test_bad_arguments_of_predict_and_accuracy_are_refused_by_name():
    models = [Small(0), Small(1)]
    x, y = data()
    for bad in (x[:1], x[0, 0], x[:, :0]):
        with pytest.raises(ValueError, match=r"x: got shape .*, want \[N, C, H, W\] or \[2, N, C, H, W\]"):
            training.predict(models, bad)
    with pytest.raises(ValueError, match=r"y: got shape \(1,\), want \[10\]"):
        training.accuracy(models, x[0], y[0, :1])
