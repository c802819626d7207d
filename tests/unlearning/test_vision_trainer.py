"""What a method sees (`Task`), the loop around it (`unlearn`), and the methods that the two chapters are about."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest import checkpoints
from palimpsest.kernels import project_orthogonal
from palimpsest.nets.quantised import quantise, steps
from palimpsest.training import TrainingDiverged, epoch_order
from palimpsest.unlearning.vision import OEU, FineTune, QMul, RandomLabel, relabel, unlearn
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy, frozen_statistics

CLASSES, SIDE, N, F_SIZE = 4, 6, 20, 6


class Net(nn.Module):
    def __init__(self, seed: int, width: int = 3):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 2), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Flatten())
            self.head = nn.Linear(4 * (SIDE - 3) ** 2, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Foreign(nn.Module):
    """A reader's own network, without body, head or features, and with a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.scale = nn.Linear(SIDE**2, 5), nn.Parameter(torch.tensor(1.5))
            self.second = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.scale * self.first(x.flatten(1)).tanh())


def data(networks: int = 2, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x [K, N, 1, side, side], y [K, N], forget [K, F]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, N, 1, SIDE, SIDE, generator=generator).to(dtype)
    y = torch.randint(CLASSES, (networks, N), generator=generator)
    return x, y, torch.stack([torch.randperm(N, generator=generator)[:F_SIZE] for _ in range(networks)])


def rest(forget: Tensor) -> Tensor:
    return torch.stack([torch.tensor(sorted(set(range(N)) - set(row.tolist()))) for row in forget])


def start(seeds, quantised: bool = False, dtype=torch.float64) -> list[nn.Module]:
    models = [Net(seed).to(dtype) for seed in seeds]
    return [quantise(m, "W4A4", data(1, dtype)[0][0]) for m in models] if quantised else models


def task(networks: int = 2, quantised: bool = False, **changes) -> Task:
    x, y, forget = data(networks)
    settings = {"seeds": list(range(networks)), "lr": torch.ones(networks), "epochs": 3, "batch_size": 4, **changes}
    forget = settings.pop("forget", forget)
    return Task(start(range(networks), quantised), x, y, forget, rest(forget), **settings)


def state(model: nn.Module) -> Tensor:
    return torch.cat([v.detach().flatten().double() for v in model.state_dict().values() if v.ndim])


def noise(parameters: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


# Data.


def test_batches_cover_every_index_of_every_network_once():
    t = task(2)
    for n, size, count in ((14, 4, 4), (14, 14, 1), (14, 100, 1), (6, 4, 2), (5, 2, 2), (2, 2, 1), (3, 2, 1)):
        t.batch_size = size
        indices = torch.stack([torch.arange(100, 100 + n), torch.arange(200, 200 + n)])
        batches = list(t.batches(indices, 1))
        assert len(batches) == count
        assert min(map(len, batches)) >= 2
        assert max(map(len, batches)) <= max(size, 3)
        assert torch.equal(torch.cat(batches).sort(0).values, indices.T)
        for k, seed in enumerate(t.seeds):  # the order of the training loop: a function of seed and epoch
            assert torch.equal(torch.cat(batches)[:, k], indices[k, epoch_order(n, seed, 1)])


def test_pairs_cover_the_retain_set_once_and_the_forget_set_in_turns():
    t = task(2)
    pairs = list(t.paired(1))
    assert len(pairs) == 4  # 14 retained samples in fours
    assert torch.equal(torch.cat([r for _, r in pairs]).sort(0).values, t.retain.T)
    for turn in (pairs[:2], pairs[2:]):  # 6 forgotten ones in two batches
        assert torch.equal(torch.cat([f for f, _ in turn]).sort(0).values, t.forget.T.sort(0).values)
    orders = [torch.cat([f for f, _ in turn]).tolist() for turn in (pairs[:2], pairs[2:])]
    orders += [torch.cat([f for f, _ in list(t.paired(epoch))[:2]]).tolist() for epoch in (0, 2)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i)), "the order of a turn came back"


def test_images_and_labels_are_those_of_each_network():
    t = task(2)
    batch = torch.tensor([[3, 5], [0, 19], [3, 3]])
    for i in range(3):
        for k in range(2):
            assert torch.equal(t.images(batch)[i, k], t.x[k, batch[i, k]])
            assert t.labels(batch)[i, k] == t.y[k, batch[i, k]]


def test_generators_differ_by_seed_epoch_and_purpose():
    t = task(2)
    draws = {
        torch.rand((), generator=t.generator(e, k, p)).item() for e in range(3) for k in range(2) for p in (1, 2)
    }
    assert len(draws) == 12
    assert len({torch.rand((), generator=t.generator(1, 0, 1)).item() for _ in range(2)}) == 1


def test_cross_entropy_is_the_mean_of_each_network():
    logits, labels = (
        torch.randn(5, 2, CLASSES, generator=torch.Generator().manual_seed(1)),
        torch.arange(10).view(5, 2),
    )
    expected = [F.cross_entropy(logits[:, k], labels[:, k] % CLASSES) for k in range(2)]
    torch.testing.assert_close(cross_entropy(logits, labels % CLASSES), torch.stack(expected))


# Networks apart, against one network at a time.


def apart(gradients: list[Tensor], k: int, networks: int) -> list[Tensor]:
    return [g.chunk(networks)[k] for g in gradients]


@pytest.mark.parametrize("networks", [1, 3])
def test_arithmetic_is_that_of_each_network(networks):
    t = task(networks, quantised=True)
    assert {p.shape for p in t.parameters} >= {(networks,), (networks, CLASSES, 36)}  # steps, the heads
    a, b = noise(t.parameters, 1), noise(t.parameters, 2)
    factors = torch.arange(1.0, networks + 1, dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}
    for k in range(networks):
        x, y = apart(a, k, networks), apart(b, k, networks)
        torch.testing.assert_close(t.dot(a, b)[k], sum((u * v).sum() for u, v in zip(x, y, strict=True)), **close)
        torch.testing.assert_close(t.norms(a)[k], sum(u.norm() for u in x), **close)
        for whole, part in zip(t.scaled(a, factors), x, strict=True):
            assert torch.equal(whole.chunk(networks)[k], part * factors[k])
        for whole, part in zip(a, x, strict=True):
            assert torch.equal(t.split(whole)[k].flatten(), part.flatten())
        for mode in ("always", "conflict"):
            for scope in ("model", "layer"):
                expected = project_orthogonal(x, y, 0.7, mode, scope, backend="reference")
                found = apart(t.projected(a, b, 0.7, mode, scope), k, networks)
                for u, v in zip(found, expected, strict=True):
                    torch.testing.assert_close(u, v, **close)


def test_gradients_are_those_of_each_network_and_are_counted():
    t = task(2)
    batch = next(t.batches(t.retain, 0))
    found = t.gradients(cross_entropy(t.logits(t.images(batch)), t.labels(batch)))
    assert (t.samples_forward, t.samples_backward) == (4, 4)
    for k, model in enumerate(start(range(2))):
        loss = F.cross_entropy(model.train()(t.images(batch)[:, k]), t.labels(batch)[:, k])
        for whole, part in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            torch.testing.assert_close(t.split(whole)[k].view_as(part), part, rtol=1e-10, atol=1e-12)
    t.evaluate(t.images(t.forget.T))
    assert (t.samples_forward, t.samples_backward) == (4 + 6, 4)


def test_frozen_statistics_normalise_by_the_batch_and_move_nothing():
    model = Net(0).double().train()
    norm, x = model.body[1], data(1)[0][0]
    expected = copy.deepcopy(model)(x)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with frozen_statistics(model):
        found = model(x)
    assert torch.equal(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
    assert norm.momentum == 0.1
    with pytest.raises(KeyError), frozen_statistics(model):
        raise KeyError
    model(x)
    assert int(norm.num_batches_tracked) == 1
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_the_original_stays_and_is_in_evaluation_mode():
    t = task(2)
    original, x = t.original, t.images(t.forget.T)
    before = original(x)
    with torch.no_grad():
        t.net.head.weight.zero_()
    t.logits(x)
    assert torch.equal(t.original(x), before)
    assert not any(p.requires_grad for p in original.parameters())
    assert not original.training
    assert t.net.training


# The loop.

SETTINGS = {"epochs": 3, "batch_size": 4}


def test_a_run_is_torch_sgd_with_decay_momentum_and_a_cosine_by_epoch():
    x, y, forget = data(2)
    rates, models = [0.125, 0.03125], start([0, 1])  # exact in single precision
    unlearn(models, x, y, forget, FineTune(), lr=rates, weight_decay=0.0625, momentum=0.8, **SETTINGS)
    for k, model in enumerate(start([0, 1])):
        own = rest(forget)[k]
        optimiser = torch.optim.SGD(model.parameters(), rates[k], momentum=0.8, weight_decay=0.0625)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3)
        for epoch in range(3):
            for batch in own[epoch_order(14, k, epoch)].tensor_split(4):
                optimiser.zero_grad()
                F.cross_entropy(model.train()(x[k, batch]), y[k, batch]).backward()
                optimiser.step()
            schedule.step()
        moved = (state(model) - state(start([k])[0])).norm()
        assert (state(models[k]) - state(model)).norm() <= 1e-9 * moved


def test_quantiser_steps_have_no_weight_decay_and_stay_positive():
    x, y, forget = data(1)
    runs = []
    for decay in (0.0, 0.5):
        models = start([0], quantised=True)
        unlearn(models, x, y, forget, FineTune(), lr=1e-3, weight_decay=decay, epochs=1, batch_size=20)
        runs.append(dict(models[0].named_parameters()))
    first = dict(start([0], quantised=True)[0].named_parameters())
    for name in first:
        assert torch.equal(runs[0][name], runs[1][name]) == (name.endswith("_step") or not first[name].any()), name
    held = start([0], quantised=True)[0]
    with pytest.raises(TrainingDiverged, match=r"step .*_step collapsed to zero in epoch 1 of 1 at 100"):
        unlearn([held], x, y, forget, FineTune(), lr=100.0, epochs=1, batch_size=20)
    assert min(p.item() for p in steps(held).values()) > 0


METHODS = {
    "fine-tune": FineTune(),
    "random label": RandomLabel(),
    "Q-MUL": QMul(),
    "similar": QMul(weights=None),
    "constant": QMul(weights=0.3),
    "RL + AGR": QMul(labels="random"),
    "quirks": QMul(official_quirks=True),
    "OEU": OEU(),
    "uniform": OEU(loss="uniform", lam=0.5),
    "projection only": OEU(loss="random-label", scope="layer"),
    "none": OEU(direction="none", keep_statistics=False),
    "pcgrad": OEU(direction="pcgrad"),
    "random": OEU(direction="random", mode="conflict"),
    "ema": OEU(against="ema"),
    "basis": OEU(against="basis"),
    "steps out": OEU(project_steps=False, against="basis"),
}


@pytest.mark.parametrize("name", METHODS)
def test_networks_together_equal_each_alone(name):
    # Double precision: its rounding, times any amplification short of ten digits, stays below a millionth of what
    # the run moves. Anything that one network hands to another moves it by percents.
    x, y, forget = data(2)
    rates, seeds = [0.02, 0.005], [3, 8]
    together = start([0, 1], quantised=True)
    report = unlearn(together, x, y, forget, METHODS[name], lr=rates, seeds=seeds, epochs=2, batch_size=4)
    for k in range(2):
        alone = start([k], quantised=True)
        own = (x[k : k + 1], y[k : k + 1], forget[k : k + 1])
        single = unlearn(alone, *own, METHODS[name], lr=rates[k], seeds=[seeds[k]], epochs=2, batch_size=4)
        moved = (state(alone[0]) - state(start([k], quantised=True)[0])).norm()
        assert (state(together[k]) - state(alone[0])).norm() <= 1e-6 * moved
        assert (single.samples_forward, single.samples_backward) == (report.samples_forward, report.samples_backward)
        assert len(single.log) == len(report.log)
        for row, own_row in zip(report.log, single.log, strict=True):
            assert row.keys() == own_row.keys()
            for key in row.keys() - {"epoch", "step"}:
                assert row[key][k] == pytest.approx(own_row[key][0], rel=1e-6, abs=1e-9)


# 20 samples, 6 of them to forget, batches of 4, two epochs.
WORK = {
    "fine-tune": (2 * 14, 2 * 14),
    "random label": (2 * 20, 2 * 20),
    "Q-MUL": (2 * (6 + 20 + 20), 2 * (20 + 20)),  # relabelling; norms; steps
    "quirks": (2 * (6 + 20 + 20), 2 * (20 + 20)),
    "similar": (2 * (6 + 20), 2 * 20),
    "RL + AGR": (2 * (20 + 20), 2 * (20 + 20)),
    "OEU": (2 * (14 + 12), 2 * (14 + 12)),  # four retain batches meet two turns of the forget set
    "ema": (2 * (14 + 12), 2 * (14 + 12)),
}


@pytest.mark.parametrize("name", WORK)
def test_samples_forward_and_backward_are_counted(name):
    x, y, forget = data(2)
    report = unlearn(start([0, 1]), x, y, forget, METHODS[name], lr=0.01, epochs=2, batch_size=4)
    assert (report.samples_forward, report.samples_backward) == WORK[name]
    assert report.seconds > 0


class Stopped(Exception):
    pass


@dataclass(frozen=True)
class Remembering(Method):
    """Keeps a tensor in channels-last memory and asks for the original networks."""

    def begin(self, task: Task) -> None:
        assert torch.equal(task.original.head.weight, task.net.head.weight)

    def epoch(self, task: Task, epoch: int):
        for batch in task.batches(task.retain, epoch):
            gradients = task.gradients(cross_entropy(task.logits(task.images(batch)), task.labels(batch)))
            task.memory["sum"] = task.memory.get("sum", 0) + gradients[0]
            task.record(epoch, pull=(task.net.head.weight - task.original.head.weight).flatten(1).norm(dim=1))
            task.descend([task.memory["sum"], *gradients[1:]])
            yield


@pytest.mark.parametrize("name", ["fine-tune", "quirks", "Q-MUL", "random", "ema", "basis", "remembering"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, name):
    x, y, forget = data(2, torch.float32)
    method, runs = METHODS.get(name, Remembering()), []

    def run(folder):
        models = [m.to(memory_format=torch.channels_last) for m in start([0, 1], True, torch.float32)]
        report = unlearn(models, x, y, forget, method, lr=0.01, checkpoint=folder, epochs=2, batch_size=4)
        runs.append(([v.clone() for m in models for v in m.state_dict().values()], report))

    run(None)
    save, last = checkpoints.save, []

    def stop_after(folder, identity, epoch, *rest):
        save(folder, identity, epoch, *rest)
        if epoch == last[0]:
            raise Stopped

    monkeypatch.setattr(checkpoints, "save", stop_after)
    for stop in (1, 2):
        last[:] = [stop]
        with pytest.raises(Stopped):
            run(tmp_path / str(stop))
        last[:] = [0]
        run(tmp_path / str(stop))
    (expected, report), *resumed = runs
    for bits, again in resumed:
        assert all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True))
        assert again.log == report.log
        assert (again.samples_forward, again.samples_backward) == (report.samples_forward, report.samples_backward)


def test_the_checkpoint_of_another_run_is_refused_with_the_reason(tmp_path):
    x, y, forget = data(2)

    def run(models=None, x=x, y=y, forget=forget, method=METHODS["OEU"], lr=0.01, **changes):
        models = models or start([0, 1])
        unlearn(models, x, y, forget, method, lr=lr, checkpoint=tmp_path, **{**SETTINGS, **changes})

    run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    others = {
        "method": [{"method": OEU(lam=2.0)}, {"method": FineTune()}],
        "settings": [{"lr": [0.01, 0.02]}, {"epochs": 4}, {"batch_size": 5}, {"seeds": [0, 2]}, {"momentum": 0.5}],
        "data": [{"forget": forget.flip(1)}, {"y": (y + 1) % CLASSES}, {"x": x + 1}],
        "start": [{"models": start([0, 2])}],
        "networks": [
            {"models": [Net(0, 5).double(), Net(1, 5).double()]},
            {"models": start([0, 1], True)},
        ],
    }
    for reason, changes in others.items():
        for change in changes:
            with pytest.raises(ValueError, match=rf"checkpoint: {tmp_path} belongs to another run \({reason}: "):
                run(**change)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["fine-tune", "random label", "Q-MUL", "OEU"])
def test_a_network_of_the_readers_own_unlearns(name):
    model, (x, y, forget) = Foreign(), data(1, torch.float32)
    before = copy.deepcopy(model.state_dict())
    first = unlearn([model], x[0], y[0], forget[0], METHODS[name], lr=0.1, **SETTINGS)
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = Foreign()
    second = unlearn([again], x, y, forget, METHODS[name], lr=[0.1], seeds=[0], **SETTINGS)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert first.log == second.log


# Bad input.


def test_bad_input_is_refused_by_name_and_changes_nothing():
    x, y, forget = data(2)
    models = start([0, 1])
    before = [state(m) for m in models]

    def refused(match, models=models, x=x, y=y, forget=forget, lr=0.01, **changes):
        with pytest.raises(ValueError, match=match):
            unlearn(models, x, y, forget, FineTune(), lr=lr, **{**SETTINGS, **changes})

    refused(r"forget: got indices in 15 \.\. 20, want 0 \.\. 19", forget=torch.arange(15, 21).repeat(2, 1))
    refused(r"forget: got indices in -1 \.\. 4", forget=torch.arange(-1, 5).repeat(2, 1))
    refused("forget: got an index twice", forget=torch.tensor([[1, 2, 3], [4, 5, 4]]))
    for wrong in (forget[:, :0], forget[:, :1], forget.double(), forget > 3):
        refused(r"forget: got .*, want int64 \[2, F\] with 2 to 18 of 20 samples", forget=wrong)
    refused("at least two must stay", forget=torch.arange(N).repeat(2, 1))
    refused("at least two must stay", forget=torch.arange(N - 1).repeat(2, 1))
    refused(r"y: got labels in 0 \.\. 4, want 0 \.\. 3", y=y.clone().index_fill_(1, torch.tensor(0), CLASSES))
    refused(r"y: got labels in -1 \.\. 3, want 0 \.\. 3", y=y.clone().index_fill_(1, torch.tensor(0), -1))
    refused("y: got torch.float64, want int64", y=y.double())
    for bad in (0.0, -0.1, math.nan, math.inf, [0.1, math.nan], [0.1, 0.0], "0.1", None, [0.1] * 3, [0.1], True):
        refused("lr: got ", lr=bad)
    for name, values in {"epochs": (0, -1, 1.5, True), "batch_size": (0, 1, 4.0)}.items():
        for value in values:
            refused(f"{name}: got {value!r}, want an integer of at least", **{name: value})
    for name in ("momentum", "weight_decay"):
        for value in (-0.1, math.nan, math.inf, "0", None):
            refused(f"{name}: got {value!r}, want a finite number of at least 0", **{name: value})
    shapes = "models, x, y, forget, seeds: got "
    refused(shapes + "1 models", models=models[:1])
    refused(shapes + "0 models", models=[])
    refused(shapes, x=x[:1])
    refused(shapes, x=x[:, :-1])
    refused(shapes, y=y[:, :-1])
    refused(shapes, forget=forget[:1])
    refused(shapes + ".*3 seeds", seeds=[0, 1, 2])
    refused("x: got NaN or infinite", x=x / 0)
    assert all(torch.equal(state(m), b) for m, b in zip(models, before, strict=True))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda n=n: OEU(**{n: "other"}), f"^{n}: got 'other'") for n in ("loss", "direction", "mode", "scope")),
        (lambda: OEU(against="other"), "^against: got 'other'"),
        *((lambda v=v: OEU(lam=v), "^lam: got ") for v in (0, -1.0, math.nan, math.inf, "1", None)),
        (lambda: QMul(labels="wrong"), "^labels: got 'wrong'"),
        *((lambda v=v: QMul(weights=v), "^weights: got ") for v in (0.0, 1.0, -0.5, math.nan, 1, "other")),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("name", ["fine-tune", "random label", "Q-MUL", "OEU", "uniform", "ema"])
def test_overflow_is_divergence_and_keeps_the_last_good_checkpoint(tmp_path, name, quantised):
    x, y, forget = data(2, torch.float32)
    models = start([0, 1], quantised, torch.float32)
    with pytest.raises(TrainingDiverged, match=r"in epoch 1 of 3 at 1e\+37; a smaller lr is needed"):
        unlearn(models, x, y, forget, METHODS[name], lr=1e37, checkpoint=tmp_path, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


# Labels.


def test_the_most_similar_label_by_hand():
    probabilities = torch.tensor([[0.6, 0.1, 0.3], [0.6, 0.1, 0.3], [0.6, 0.1, 0.3], [0.2, 0.2, 0.6]])
    # True class first: the runner-up. True class last (0.1): 0.3 is nearer than 0.6. True class in the middle
    # (0.3): 0.1 is nearer than the top class. A tie in probability: distance 0.
    assert most_similar(probabilities, torch.tensor([0, 1, 2, 1])).tolist() == [2, 2, 1, 0]
    nested = most_similar(probabilities.view(2, 2, 3), torch.tensor([[0, 1], [2, 1]]))
    assert nested.tolist() == [[2, 2], [1, 0]]


def test_random_labels_are_wrong_even_and_new_each_epoch():
    t = task(2)
    truth = torch.arange(CLASSES).repeat(600)[:, None].expand(-1, 2)
    labels = random_wrong(t, truth, 0)
    shifts = (labels - truth) % CLASSES
    # 2,400 draws from three values: 800 ± 4 standard deviations of √(2400·2/9) = 23.
    counts = torch.stack([(shifts == s).sum(0) for s in range(CLASSES)])
    assert counts[0].tolist() == [0, 0]
    assert (counts[1:] - 800).abs().max() <= 4 * 23.1
    assert not torch.equal(labels[:, 0], labels[:, 1])
    assert not torch.equal(labels, random_wrong(t, truth, 1))
    assert not torch.equal(labels, random_wrong(t, truth, 0, purpose=2))
    assert torch.equal(labels, random_wrong(t, truth, 0))


def test_relabelling_gives_each_sample_its_own_label(monkeypatch):
    t, seen = task(2), []
    wrong = (t.labels(t.forget.T) + 1) % CLASSES
    images = t.images
    monkeypatch.setattr(t, "images", lambda batch: (seen.append([batch]), images(batch))[1])
    monkeypatch.setattr(
        relabel, "cross_entropy", lambda logits, labels: (seen[-1].append(labels), cross_entropy(logits, labels))[1]
    )
    kinds = list(relabel.relabelled(t, 0, wrong))
    assert kinds == ["forget"] * 2 + ["retain"] * 4
    for kind, (batch, labels) in zip(kinds, seen, strict=True):
        assert torch.equal(labels, (t.labels(batch) + (kind == "forget")) % CLASSES)


# Q-MUL.


def test_adaptive_weights_balance_the_contributions():
    x, y, forget = data(2)
    log = unlearn(start([0, 1], True), x, y, forget, QMul(), lr=0.01, **SETTINGS).log
    weights = [row for row in log if "weight_f" in row]
    assert [row["epoch"] for row in weights] == [0, 1, 2]
    assert [("weighted_forget" in row, "weighted_retain" in row) for row in log if "weight_f" not in row] == (
        [(True, False)] * 2 + [(False, True)] * 4
    ) * 3
    for row in weights:
        for k in range(2):
            f, r, w_f, w_r = (row[key][k] for key in ("norm_f", "norm_r", "weight_f", "weight_r"))
            assert w_f * f == pytest.approx(w_r * r, rel=1e-12)
            assert w_f + w_r == pytest.approx(1, rel=1e-12)
            assert 0 < w_f < 1


def test_norms_are_means_over_batches_of_sums_of_tensor_norms():
    t = task(2, quantised=True)
    wrong = random_wrong(t, t.labels(t.forget.T), 0)
    buffers = [b.clone() for b in t.net.buffers()]
    found = QMul().norms(t, 0, wrong)
    assert all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))
    assert t.net.training
    assert all(p.grad is None for p in t.parameters)
    for which, indices in enumerate((t.forget, t.retain)):
        for k, model in enumerate(start(range(2), True)):
            labels = t.y[k].clone()
            if which == 0:
                labels[t.forget[k]] = wrong[:, k]
            values = []
            for batch in t.batches(indices, 0):
                loss = F.cross_entropy(model.eval()(t.x[k, batch[:, k]]), labels[batch[:, k]])
                values.append(sum(g.norm() for g in torch.autograd.grad(loss, list(model.parameters()))))
            torch.testing.assert_close(found[which][k], sum(values) / len(values), rtol=1e-9, atol=0)


def test_the_constant_weights_enter_the_gradient(monkeypatch):
    t, seen = task(1), []
    monkeypatch.setattr(t, "gradients", lambda loss: (seen.append(loss.detach()), Task.gradients(t, loss))[1])
    for method in (QMul(weights=0.25), QMul(weights=None)):
        list(method.epoch(t, 0))  # no step is made: the losses are those of one network
    ratio = torch.cat(seen[:6]) / torch.cat(seen[6:])
    torch.testing.assert_close(ratio, torch.tensor([0.25] * 2 + [0.75] * 4, dtype=torch.float64))


def test_official_quirks_give_true_labels_and_move_the_statistics():
    forget = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(k))[:16] for k in range(2)])
    t = task(2, forget=forget)
    truth, buffers = t.labels(forget.T), [b.clone() for b in t.net.buffers()]
    intended = QMul().similar(t, truth, 0)
    assert not (intended == truth).any()
    assert torch.equal(intended, most_similar(t.evaluate(t.images(forget.T)).softmax(-1), truth))
    assert all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))
    quirky = QMul(official_quirks=True).similar(t, truth, 0)
    assert 0 < (quirky == truth).float().mean() < 0.6
    assert quirky.max() < CLASSES - 1  # positions among three wrong classes, taken for classes
    assert not all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))
    moved = [b.clone() for b in t.net.buffers()]
    QMul(official_quirks=True).norms(t, 0, quirky)
    assert not all(torch.equal(a, b) for a, b in zip(t.net.buffers(), moved, strict=True))


# OEU: what descends, seen from the gradients it is made of.


def descents(method: OEU, quantised: bool = True, networks: int = 2) -> tuple[Task, list[tuple[list, list, list]]]:
    """(g_r, g_f, combined) of every step of two epochs; small steps are made in between."""
    t, seen = task(networks, quantised), []
    gradients, descend = t.gradients, t.descend
    t.gradients = lambda loss: (seen.append(gradients(loss)), seen[-1])[1]
    t.descend = lambda combined: (seen.append(combined), descend(combined))[1]
    for epoch in range(2):
        for _ in method.epoch(t, epoch):
            with torch.no_grad():
                for parameter in t.parameters:
                    parameter -= 1e-3 * parameter.grad
    return t, [tuple(seen[i : i + 3]) for i in range(0, len(seen), 3)]


def cosine(t: Task, a: list[Tensor], b: list[Tensor]) -> Tensor:
    return t.dot(a, b) / (t.dot(a, a) * t.dot(b, b)).sqrt()


def minus(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


ROUNDING = 1e-12  # double precision, a few thousand products


@pytest.mark.parametrize("loss", ["entropy", "uniform", "random-label"])
def test_the_forget_part_is_orthogonal_to_the_retain_gradient(loss):
    t, found = descents(OEU(loss=loss, lam=0.5))
    assert len(found) == 2 * 4
    for g_r, g_f, combined in found:
        part = minus(combined, g_r)
        assert (cosine(t, g_f, g_r).abs() > 1e-3).all(), "nothing to project"
        assert (cosine(t, part, g_r).abs() <= ROUNDING).all()
        # 0.5 (g_f − c g_r) has the inner product 0.5 ‖part / 0.5‖² with g_f.
        torch.testing.assert_close(t.dot(part, g_f), 2 * t.dot(part, part), rtol=1e-9, atol=0)


def test_layers_and_ema_and_the_basis_are_projected_off():
    t, found = descents(OEU(scope="layer"))
    for g_r, g_f, combined in found:
        for part, f, r in zip(minus(combined, g_r), g_f, g_r, strict=True):
            allowed = ROUNDING * (t.dot([r], [r]) + (t.dot([f], [f]) * t.dot([r], [r])).sqrt())
            assert (t.dot([part], [r]).abs() <= allowed).all()
    t, found = descents(OEU(against="ema"))
    average = found[0][0]
    for i, (g_r, _, combined) in enumerate(found):
        average = [0.9 * a + 0.1 * r for a, r in zip(average, g_r, strict=True)] if i else average
        assert (cosine(t, minus(combined, g_r), average).abs() <= ROUNDING).all()
    t, found = descents(OEU(against="basis"))
    for i, (g_r, _, combined) in enumerate(found):
        for j in range(max(0, i - 3), i + 1):
            assert (cosine(t, minus(combined, g_r), found[j][0]).abs() <= ROUNDING * 100).all()
        if i >= 4:
            assert (cosine(t, minus(combined, g_r), found[i - 4][0]).abs() > 1e-6).all(), "more than four"


def test_conflict_mode_leaves_agreeing_gradients_alone():
    t, found = descents(OEU(mode="conflict", lam=2.0))
    conflicts = 0
    for g_r, g_f, combined in found:
        plain = [r + 2 * f for r, f in zip(g_r, g_f, strict=True)]
        for k in range(2):
            if t.dot(g_f, g_r)[k] >= 0:
                for a, b in zip(combined, plain, strict=True):
                    torch.testing.assert_close(t.split(a)[k], t.split(b)[k], rtol=1e-12, atol=1e-15)
            else:
                conflicts += 1
                assert cosine(t, minus(combined, g_r), g_r)[k].abs() <= ROUNDING
    assert 0 < conflicts < 2 * len(found), "one of the cases did not occur"


def test_controls_by_hand():
    t, found = descents(OEU(direction="none", lam=2.0))
    for g_r, g_f, combined in found:
        for r, f, c in zip(g_r, g_f, combined, strict=True):
            torch.testing.assert_close(c, r + 2 * f, rtol=1e-12, atol=1e-15)
    t, found = descents(OEU(direction="pcgrad", lam=2.0))
    for g_r, g_f, combined in found:
        share = t.dot(g_f, g_r).clamp_max(0)
        f = minus(g_f, t.scaled(g_r, share / t.dot(g_r, g_r)))
        r = minus(g_r, t.scaled(g_f, share / t.dot(g_f, g_f)))
        for a, b, c in zip(r, f, combined, strict=True):
            torch.testing.assert_close(c, a + 2 * b, rtol=1e-9, atol=1e-12)
    t, found = descents(OEU(direction="random"))
    for g_r, g_f, combined in found:
        removed = minus(g_f, minus(combined, g_r))  # the part along a direction that is nearly orthogonal to all
        assert (t.dot(removed, removed) < 0.2 * t.dot(g_f, g_f)).all()
        assert (t.dot(removed, removed) > 0).all()
        assert (cosine(t, removed, minus(combined, g_r)).abs() <= 1e-9).all()


def test_steps_are_left_out_of_the_projection():
    t, found = descents(OEU(project_steps=False, lam=2.0))
    own = {id(p) for p in steps(t.net).values()}
    assert len(own) == 6
    inside = [id(p) not in own for p in t.parameters]
    for g_r, g_f, combined in found:
        part = [p for p, i in zip(minus(combined, g_r), inside, strict=True) if i]
        assert (cosine(t, part, [r for r, i in zip(g_r, inside, strict=True) if i]).abs() <= ROUNDING).all()
        for r, f, c, i in zip(g_r, g_f, combined, inside, strict=True):
            if not i:
                torch.testing.assert_close(c, r + 2 * f, rtol=1e-12, atol=1e-15)


def test_weighted_norms_are_those_of_the_gradients_that_descend():
    t = task(2)
    for _ in QMul().epoch(t, 0):
        (key,) = t.log[-1].keys() - {"epoch", "step"}
        assert t.log[-1][key] == t.norms([p.grad for p in t.parameters]).tolist()


def test_forget_losses_are_the_documented_ones():
    t = task(2)
    batch = t.forget.T
    p = t.net(t.images(batch)).softmax(-1)
    expected = {
        "entropy": (p * p.log()).sum(-1).mean(0),
        "uniform": (1 / CLASSES * (1 / CLASSES / p).log()).sum(-1).mean(0),
    }
    buffers = [b.clone() for b in t.net.buffers()]
    for loss, value in expected.items():
        torch.testing.assert_close(OEU(loss=loss)._forget_loss(t, batch, 0, 0), value)
    assert all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))
    OEU(keep_statistics=False)._forget_loss(t, batch, 0, 0)
    assert not all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))


def test_the_log_holds_the_angle_and_the_norms():
    x, y, forget = data(2)
    log = unlearn(start([0, 1]), x, y, forget, OEU(), lr=0.01, **SETTINGS).log
    assert [(row["epoch"], row["step"]) for row in log] == [(i // 4, i) for i in range(12)]
    for row in log:
        for k in range(2):
            assert abs(row["dot"][k]) <= row["norm_f"][k] * row["norm_r"][k] * (1 + 1e-12)
