"""Methods that step on forget and retain batches: gradients by hand, what moves, lockstep, resuming."""

import copy
import math

import pytest
import torch
from stepping_problems import (
    FORGET,
    WEIGHTS,
    Small,
    bits,
    by_hand,
    close,
    drive,
    flat,
    networks,
    run,
    same,
    set_gradients,
    task_of,
    watch,
)
from torch.nn import functional as F

from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision import (
    METHODS,
    BadTeacher,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    SalUn,
    Scrub,
)
from palimpsest.unlearning.vision.method import STEP_SIZES

NAMES = ("gradient ascent", "NegGrad+", "l1-sparse", "SalUn", "SCRUB", "Bad Teacher")


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
