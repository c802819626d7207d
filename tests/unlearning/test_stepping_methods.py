"""Methods that step on forget and retain batches: gradients by hand, what moves, lockstep, resuming."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.nets import BodyAndHead
from palimpsest.nets.quantised import QuantisedConv2d, quantise, steps
from palimpsest.unlearning.vision import (
    METHODS,
    BadTeacher,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    SalUn,
    Scrub,
    unlearn,
)
from palimpsest.unlearning.vision.bad_teacher import incompetent
from palimpsest.unlearning.vision.distillation import divergence
from palimpsest.unlearning.vision.method import STEP_SIZES
from palimpsest.unlearning.vision.task import Task

NAMES = ("gradient ascent", "NegGrad+", "l1-sparse", "SalUn", "SCRUB", "Bad Teacher")
CLASSES, SIDE, SAMPLES, FORGET, BATCH, EPOCHS = 4, 6, 16, 6, 4, 4
RETAIN = SAMPLES - FORGET
SEED = 7
"""Of the first network; with it no value that a method rounds lies on a boundary, where last digits decide."""
LR, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
EPS = torch.finfo(torch.float32).eps

# A gradient is a sum over at most BATCH·SIDE² products, and two orders of summation differ by at most that many
# roundings of a number of order 1 (the test data are standard normal).
GRADIENT = BATCH * SIDE**2 * EPS
# Over a run such differences add up: at most 6 steps an epoch, each of size LR / (1 − momentum).
WEIGHTS = 6 * EPOCHS * LR / (1 - MOMENTUM) * GRADIENT


class Small(BodyAndHead):
    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(3 * (SIDE - 2) ** 2, CLASSES)
        self.body[1].running_mean.fill_(0.3)  # what a trained network has: statistics that are not those of a batch
        self.body[1].running_var.fill_(2.0)


def data(networks: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, SAMPLES, 1, SIDE, SIDE, generator=generator)
    y = torch.randint(CLASSES, (networks, SAMPLES), generator=generator)
    return x, y, torch.stack([torch.randperm(SAMPLES, generator=generator)[:FORGET] for _ in range(networks)])


def networks(kind: str, count: int = 2) -> list[nn.Module]:
    models = [Small(k) for k in range(count)]
    if kind == "own":  # a class that is not one of ours: no `BodyAndHead`
        return [nn.Sequential(model.body, model.head) for model in models]
    return (
        [quantise(m, kind, x, ends=4) for m, x in zip(models, data(count)[0], strict=True)] if kind != "f" else models
    )


def task_of(models: list[nn.Module], first: int = 0) -> Task:
    """A task of networks number `first`, `first` + 1, … of the test data."""
    rows = slice(first, first + len(models))
    x, y, forget = (tensor[rows] for tensor in data())
    kept = torch.ones_like(y, dtype=torch.bool).scatter_(1, forget, False)
    retain = kept.nonzero()[:, 1].view(len(models), -1)
    seeds = list(range(SEED + first, SEED + first + len(models)))
    lr = torch.full((len(models),), LR)
    return Task(models, x, y, forget, retain, seeds=seeds, lr=lr, epochs=EPOCHS, batch_size=BATCH)


def run(method, models: list[nn.Module], first: int = 0, **settings):
    rows = slice(first, first + len(models))
    x, y, forget = (tensor[rows] for tensor in data())
    seeds = list(range(SEED + first, SEED + first + len(models)))
    settings = {
        "lr": LR,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
    } | settings
    return unlearn(models, x, y, forget, method, seeds=seeds, **settings)


def bits(models: list[nn.Module]) -> list[Tensor]:
    return [value.clone() for model in models for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def flat(tensors) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def by_hand(model: nn.Module, loss) -> Tensor:
    """d loss(model) / d parameters of a copy of `model` in training mode, in one row."""
    model = copy.deepcopy(model).train()
    return flat(torch.autograd.grad(loss(model), list(model.parameters())))


def set_gradients(task: Task) -> Tensor:
    return flat(p.grad for p in task.parameters)


def watch(task: Task, monkeypatch) -> list[Tensor]:
    """The index batches [B, K] that training passes use, in order."""
    seen, images = [], task.images
    monkeypatch.setattr(task, "images", lambda batch: seen.append(batch) or images(batch))
    return seen


def drive(method, task: Task, epoch: int) -> int:
    """Run one epoch without an optimiser; the number of steps."""
    return sum(1 for _ in method.epoch(task, epoch))


def close(found: Tensor, expected: Tensor, bound: float = GRADIENT) -> None:
    assert expected.abs().max() > 100 * bound, "nothing to tell apart"
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


# What holds for every method.


def test_every_method_has_a_name_and_as_many_values_to_tune():
    assert set(NAMES) <= set(METHODS)
    assert {name: len(method.grid) for name, method in METHODS.items()} == dict.fromkeys(METHODS, len(STEP_SIZES))


@pytest.mark.parametrize("kind", ["f", "W4A4"])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_becomes_in_lockstep_what_it_becomes_alone(name, kind):
    together, start = networks(kind), bits(networks(kind))
    report = run(METHODS[name], together)
    for k in range(2):
        alone = networks(kind)[k]
        own = run(METHODS[name], [alone], first=k)
        assert (own.samples_forward, own.samples_backward) == (report.samples_forward, report.samples_backward)
        for found, expected in zip(bits([together[k]]), bits([alone]), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=WEIGHTS)
    moved = max(
        (a - b).abs().max().item() for a, b in zip(bits(together), start, strict=True) if a.is_floating_point()
    )
    assert moved > 20 * WEIGHTS


@pytest.mark.parametrize("name", NAMES)
def test_the_same_run_twice_gives_the_same_bits(name):
    torch.manual_seed(0)
    first, second = networks("W4A4"), networks("W4A4")
    run(METHODS[name], first)
    torch.manual_seed(1)
    run(METHODS[name], second)
    assert same(bits(first), bits(second))


@pytest.mark.parametrize("kind", ["W4A4", "own"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(name, kind, tmp_path, stop_at):
    count = 1 if kind == "own" else 2
    expected = networks(kind, count)
    report = run(METHODS[name], expected)
    stop_at(2, lambda: run(METHODS[name], networks(kind, count), checkpoint=tmp_path))
    resumed = networks(kind, count)
    continued = run(METHODS[name], resumed, checkpoint=tmp_path)
    assert same(bits(resumed), bits(expected))
    assert (continued.samples_forward, continued.samples_backward) == (
        report.samples_forward,
        report.samples_backward,
    )


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        *((NegGradPlus, "alpha", bad) for bad in (0, -0.1, 1.01, math.nan, "0.5", None, True)),
        *((L1Sparse, "gamma", bad) for bad in (0, -1e-4, math.inf)),
        *((SalUn, "share", bad) for bad in (0, 1.5, math.nan)),
        *((Scrub, name, bad) for name in ("alpha", "gamma", "temperature") for bad in (0, -1, math.inf)),
        *((Scrub, "max_epochs", bad) for bad in (0, 1.0, True)),
        *((BadTeacher, "retain_share", bad) for bad in (0, 1.1)),
        *((BadTeacher, "temperature", bad) for bad in (0, math.nan)),
    ],
)
def test_a_hyperparameter_that_cannot_be_meant_is_refused_by_name(method, name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value!r}, want "):
        method(**{name: value})


# Gradient ascent, NegGrad+, l1-sparse.


def test_gradient_ascent_climbs_the_forget_loss_and_sees_nothing_else(monkeypatch):
    model = Small(0)
    task = task_of([model])
    seen = watch(task, monkeypatch)
    next(GradientAscent().epoch(task, 0))
    x, y = task.x[0, seen[0][:, 0]], task.y[0, seen[0][:, 0]]
    close(set_gradients(task), -by_hand(model, lambda net: F.cross_entropy(net(x), y)))
    seen.clear()
    assert drive(GradientAscent(), task, 1) == 2
    assert torch.equal(torch.cat(seen)[:, 0].sort().values, task.forget[0].sort().values)


def test_neggrad_plus_weighs_retain_against_forget(monkeypatch):
    model = Small(0)
    task = task_of([model])
    seen = watch(task, monkeypatch)
    next(NegGradPlus(alpha=0.7).epoch(task, 0))
    (xr, yr), (xf, yf) = ((task.x[0, batch[:, 0]], task.y[0, batch[:, 0]]) for batch in seen)
    expected = 0.7 * by_hand(model, lambda net: F.cross_entropy(net(xr), yr))
    expected -= 0.3 * by_hand(model, lambda net: F.cross_entropy(net(xf), yf))
    close(set_gradients(task), expected)
    seen.clear()
    assert drive(NegGradPlus(), task, 1) == 3  # one a retain batch
    assert torch.equal(torch.cat(seen[::2])[:, 0].sort().values, task.retain[0])
    assert torch.isin(torch.cat(seen[1::2]), task.forget).all()
    assert task.samples_backward == task.samples_forward == sum(map(len, seen)) + len(xr) + len(xf)


@pytest.mark.parametrize(("epoch", "left"), [(0, 1.0), (1, 0.75), (3, 0.25)])
def test_l1_sparse_pulls_every_weight_to_zero_less_each_epoch(epoch, left, monkeypatch):
    model = networks("W4A4", 1)[0]
    model.head.bias.data[0] = 0
    task = task_of([model])
    seen = watch(task, monkeypatch)
    next(L1Sparse(gamma=0.5).epoch(task, epoch))
    x, y = task.x[0, seen[0][:, 0]], task.y[0, seen[0][:, 0]]
    assert torch.isin(seen[0], task.retain).all()
    pull = flat(p.sign() * ("step" not in name) for name, p in model.named_parameters())
    assert len(steps(model)) == 4
    close(set_gradients(task), by_hand(model, lambda net: F.cross_entropy(net(x), y)) + 0.5 * left * pull)


# SalUn.


def test_saliency_is_the_larger_half_of_the_forget_gradient_in_each_network():
    models = [Small(0), Small(1)]
    # The gradient's size differs between the networks: one threshold for both would be seen.
    models[1].head.weight.data *= 30
    task = task_of(models)
    masks = SalUn().masks(task)
    for k, model in enumerate(models):
        own = copy.deepcopy(model).eval()
        loss = F.cross_entropy(own(task.x[k, task.forget[k]]), task.y[k, task.forget[k]])
        magnitude = flat(torch.autograd.grad(loss, list(own.parameters()))).abs()
        found = flat(task.split(mask)[k] for mask in masks)
        assert found.sum() == len(magnitude) // 2
        assert magnitude[found].min() >= magnitude[~found].max() * (1 - 1e-5)
    assert task.samples_forward == task.samples_backward == FORGET


def test_saliency_keeps_the_statistics_and_the_mode():
    model = Small(0)
    task = task_of([model])
    before = bits([task.net])
    SalUn().begin(task)
    assert same(bits([task.net]), before)
    assert task.net.training


def test_salun_moves_salient_weights_only_and_the_others_not_by_a_bit():
    model, start = Small(0), Small(0)
    masks = SalUn(share=0.25).masks(task_of([Small(0)]))
    run(SalUn(share=0.25), [model], weight_decay=0.1)
    salient = flat(masks)
    moved = flat(model.parameters()) != flat(start.parameters())
    assert salient.sum() == len(salient) // 4
    assert not moved[~salient].any()
    assert moved[salient].all()


def test_salun_with_every_weight_is_random_label():
    first, second = [Small(0), Small(1)], [Small(0), Small(1)]
    run(SalUn(share=1), first)
    run(RandomLabel(), second)
    assert same(bits(first), bits(second))


# Teachers.


def test_divergence_by_hand():
    # p = (3/4, 1/4) and q = (1/2, 1/2): KL(p‖q) = 3/4 ln 3/2 + 1/4 ln 1/2, and KL(q‖p) = 1/2 ln 2/3 + 1/2 ln 2.
    p, q = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
    forward, backward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    teacher, student = torch.stack([torch.stack([p, q]), torch.stack([p, p])]), torch.stack([q, p]).expand(2, 2, 2)
    # Network 0: two samples p‖q. Network 1: q‖p and p‖p.
    expected = torch.tensor([forward, backward / 2])
    bound = 8 * EPS  # some eight roundings of numbers below 1
    torch.testing.assert_close(divergence(teacher, student), expected, rtol=0, atol=bound)
    torch.testing.assert_close(divergence(3 * teacher, 3 * student, 3.0), 9 * expected, rtol=0, atol=9 * 3 * bound)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    return (teacher.softmax(1) * (teacher.softmax(1).log() - student.softmax(1).log())).sum(1).mean()


def test_scrub_runs_from_the_original_first_and_stays_near_it_after(monkeypatch):
    model = Small(0)
    original, method = copy.deepcopy(model).eval(), Scrub(alpha=0.2, gamma=0.6, max_epochs=2, temperature=3.0)
    task = task_of([model])
    method.begin(task)
    assert (task.samples_forward, task.samples_backward) == (SAMPLES, 0)
    with torch.no_grad():
        task.net.head.weight.mul_(2)  # the teacher must stay what it was
    model.head.weight.data *= 2
    seen = watch(task, monkeypatch)
    walk = method.epoch(task, 0)
    next(walk)
    x = task.x[0, seen[0][:, 0]]
    assert torch.isin(seen[0], task.forget).all()
    close(set_gradients(task), -9 * by_hand(model, lambda net: kl(original(x).detach() / 3, net(x) / 3)))
    next(walk)
    next(walk)
    x, y = task.x[0, seen[2][:, 0]], task.y[0, seen[2][:, 0]]
    assert torch.isin(seen[2], task.retain).all()
    # The max-steps changed no weight (nothing stepped), and batch norm in training mode does not read its statistics.
    near = by_hand(model, lambda net: kl(original(x).detach() / 3, net(x) / 3))
    right = by_hand(model, lambda net: F.cross_entropy(net(x), y))
    close(set_gradients(task), 0.2 * 9 * near + 0.6 * right)


def test_scrub_leaves_the_forget_set_alone_after_its_max_epochs(monkeypatch):
    task = task_of([Small(0)])
    method = Scrub(max_epochs=2)
    method.begin(task)
    seen = watch(task, monkeypatch)
    found = []
    for epoch in range(EPOCHS):
        seen.clear()
        drive(method, task, epoch)
        found.append([("retain", "forget")[int(torch.isin(batch, task.forget).all())] for batch in seen])
        assert torch.equal(torch.cat(seen)[-RETAIN:, 0].sort().values, task.retain[0])
    assert found == [["forget"] * 2 + ["retain"] * 3] * 2 + [["retain"] * 3] * 2


def test_bad_teacher_learns_from_the_right_teacher(monkeypatch):
    models = [Small(0), Small(1)]
    originals, method = (
        [copy.deepcopy(model).eval() for model in models],
        BadTeacher(retain_share=0.5, temperature=2.0),
    )
    task = task_of(models)
    method.begin(task)
    kept = task.memory["kept"]
    assert kept.shape == (2, RETAIN // 2)
    assert all(len(set(row.tolist())) == RETAIN // 2 for row in kept)
    assert all(torch.isin(kept[k], task.retain[k]).all() for k in range(2))
    assert task.samples_forward == FORGET + RETAIN // 2
    random = incompetent(task)
    with torch.no_grad():
        random = random.eval()(task.x.transpose(0, 1))
    seen = watch(task, monkeypatch)
    walk = method.epoch(task, 0)
    next(walk)
    for k, model in enumerate(models):
        batch = seen[0][:, k]
        x = task.x[k, batch]
        forget = torch.isin(batch, task.forget[k])[:, None]
        assert 0 < forget.sum() < len(batch), "a batch of one kind would not tell the teachers apart"
        teacher = torch.where(forget, random[batch, k], originals[k](x).detach())
        expected = by_hand(model, lambda net, x=x, teacher=teacher: 4 * kl(teacher / 2, net(x) / 2))
        close(flat(task.split(p.grad)[k] for p in task.parameters), expected)
    for _ in walk:
        pass
    for k in range(2):
        everything = torch.cat([task.forget[k], kept[k]]).sort().values
        assert torch.equal(torch.cat(seen)[:, k].sort().values, everything)


def test_an_incompetent_teacher_is_random_by_seed_and_alone_as_in_lockstep():
    torch.manual_seed(0)
    start = torch.random.get_rng_state()
    together = incompetent(task_of([Small(0), Small(0)]))
    assert torch.equal(torch.random.get_rng_state(), start)
    for k in range(2):
        alone = incompetent(task_of([Small(0)], first=k))
        for found, expected in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(found.chunk(2)[k], expected)
    assert not torch.equal(*together.body[0].weight.chunk(2))
    assert not torch.equal(together.body[0].weight[:3], Small(0).body[0].weight)
    assert (together.body[1].running_mean == 0).all()


def test_a_quantised_incompetent_teacher_starts_its_steps_anew():
    models = networks("W4A4", 1)
    task = task_of(models)
    with torch.no_grad():  # trained steps under which every activation of a random network rounds to zero
        for step in steps(models[0]).values():
            step.fill_(100.0)
    teacher = incompetent(task)
    assert task.samples_forward == BATCH
    layer = teacher.body[0]
    assert isinstance(layer, QuantisedConv2d)
    images = task.x[0, task.forget[0, :BATCH]]
    # A signed image at 4 bits has Q_P = 7, and so has the weight.
    for step, values in ((layer.weight_step, layer.weight), (layer.input_step, images)):
        torch.testing.assert_close(step[0], 2 * values.abs().mean() / math.sqrt(7), rtol=4 * EPS, atol=0)
    with torch.no_grad():
        spread = teacher.eval()(task.x.transpose(0, 1)).std(0)
    assert (spread > 0).all(), "the teacher answers every image alike"
    assert all((step == 100).all() for step in steps(models[0]).values())


def test_a_layer_that_cannot_be_reset_is_named():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.by

    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, CLASSES), Offset())
    with pytest.raises(ValueError, match=r"^models: got layer '2' without reset_parameters"):
        run(BadTeacher(), [model])
