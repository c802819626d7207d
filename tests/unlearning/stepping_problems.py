"""A small network, its data and gradients by hand, for the tests of methods that step on batches."""

import copy

import torch
from torch import Tensor, nn

from palimpsest.nets import BodyAndHead
from palimpsest.nets.quantised import quantise
from palimpsest.unlearning.vision import (
    unlearn,
)
from palimpsest.unlearning.vision.task import Task

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
