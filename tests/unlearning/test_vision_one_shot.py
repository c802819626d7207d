"""SSD, influence, boundary shrink and LAF: what they move, by hand, and the contract that all methods share."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vision_problems import CLASSES, SIDE, N, data, start, state, task

from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision import LAF, METHODS, SSD, BoundaryShrink, Influence, fisher, unlearn, vae
from palimpsest.unlearning.vision.laf import contrast, strangeness
from palimpsest.unlearning.vision.method import STEP_SIZES
from palimpsest.unlearning.vision.ssd import dampening
from palimpsest.unlearning.vision.task import Task

TESTED = {name: METHODS[name] for name in ("SSD", "influence", "boundary shrink", "LAF")}
TESTED["LAF + repair"] = LAF(repair=True)
NAMES = tuple(TESTED)
ALL = torch.arange(N)


# What every method must keep.

DIALS = {"SSD": [1.0, 2.0], "influence": [0.5, 0.1], "boundary shrink": [0.02, 0.005], "LAF": [0.02, 0.005]}
DIALS["LAF + repair"] = DIALS["LAF"]


@pytest.mark.parametrize("name", NAMES)
def test_networks_together_equal_each_alone_and_two_runs_give_the_same_bits(name):
    # In double precision; its rounding stays below a millionth of the way, a leak between networks does not.
    x, y, forget = data()
    settings = {"epochs": 2, "batch_size": 4}
    runs = []
    for _ in range(2):
        together = start([0, 1], True)
        report = unlearn(together, x, y, forget, TESTED[name], lr=DIALS[name], seeds=[3, 8], **settings)
        runs.append([state(m) for m in together])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    for k, seed in enumerate([3, 8]):
        alone = start([k], True)
        own = (x[k : k + 1], y[k : k + 1], forget[k : k + 1])
        single = unlearn(alone, *own, TESTED[name], lr=DIALS[name][k], seeds=[seed], **settings)
        moved = (state(alone[0]) - state(start([k], True)[0])).norm()
        assert moved > 0
        assert (runs[0][k] - state(alone[0])).norm() <= 1e-6 * moved
        assert (single.samples_forward, single.samples_backward) == (report.samples_forward, report.samples_backward)


# 20 samples, 6 to forget; one epoch of four retain batches that meet 12 forgotten samples.
WORK = {
    "SSD": (6 + 20, 6 + 20),
    "influence": (6 + 14, 6 + 14),
    "boundary shrink": (2 * 6 + 6, 6 + 6),  # the gradient and its result on the original; the steps
    "LAF + repair": (20 + 3 * 26 + 14, 2 * 26 + 14),
    "LAF": (20 + 3 * 26, 2 * 26),  # features for the autoencoders; two losses, one of them against the original
}


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_counted(name):
    report = unlearn(start([0, 1], True), *data(), TESTED[name], lr=DIALS[name], epochs=1, batch_size=4)
    assert (report.samples_forward, report.samples_backward) == WORK[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_at, name):
    def run(folder):
        models = start([0, 1], True, dtype=torch.float32)
        report = unlearn(
            models, *data(2, torch.float32), TESTED[name], lr=DIALS[name], epochs=2, batch_size=4, checkpoint=folder
        )
        return [v for m in models for v in m.state_dict().values()], report

    expected, report = run(None)
    stop_at(1, lambda: run(tmp_path))
    bits, again = run(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True))
    assert (again.samples_forward, again.samples_backward) == (report.samples_forward, report.samples_backward)


def test_every_method_tunes_as_many_values():
    for name in NAMES:
        assert len(TESTED[name].grid) == len(STEP_SIZES)
        assert sorted(set(TESTED[name].grid)) == list(TESTED[name].grid)
    assert 10 in SSD.grid  # α of the paper
    assert 1e-5 in BoundaryShrink.grid  # the released code's step size


@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda v=v: SSD(lam=v), "^lam: got ") for v in (0, -1.0, math.nan, math.inf, "1", None)),
        *((lambda v=v: Influence(damping=v), "^damping: got ") for v in (0, -0.1, math.nan)),
        *((lambda v=v: BoundaryShrink(bound=v), "^bound: got ") for v in (0, 1.5, math.nan)),
        *((lambda v=v: LAF(temperature=v), "^temperature: got ") for v in (0, math.inf)),
        *((lambda v=v: LAF(alignment=v), "^alignment: got ") for v in (-1, math.nan)),
        (lambda: LAF(repair=1), "^repair: got 1"),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# Fisher, SSD, influence.


def squares(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """By hand for one network: the gradient of the mean loss, and the mean of squared batch gradients."""
    model.eval()
    parameters = list(model.parameters())
    mean = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    parts = [
        torch.autograd.grad(F.cross_entropy(model(a), b), parameters)
        for a, b in zip(x.split(batch), y.split(batch), strict=True)
    ]
    return list(mean), [sum(g**2 for g in column) / len(parts) for column in zip(*parts, strict=True)]


def test_squared_gradients_are_those_of_each_network(monkeypatch):
    monkeypatch.setattr(fisher, "BATCH", 4)
    t, buffers = task(), [b.clone() for b in task().net.buffers()]
    found = fisher.squared_gradients(t, t.forget)  # batches of 4 and 2
    assert all(torch.equal(a, b) for a, b in zip(t.net.buffers(), buffers, strict=True))
    for k, model in enumerate(start(range(2), False)):
        expected = squares(model, t.x[k, t.forget[k]], t.y[k, t.forget[k]], 4)
        for values, own in zip(found, expected, strict=True):
            for whole, part in zip(values, own, strict=True):
                torch.testing.assert_close(t.split(whole)[k].view_as(part), part, rtol=1e-9, atol=1e-14)


def test_dampening_by_hand():
    forget = torch.tensor([9.0, 10.0, 11.0, 40.0, 0.0, 3.0])
    full = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    # α = 10: 9 and 10 are not above 10 · 1; 11 and 40 are; nothing against nothing stays; what matters for the
    # forget set alone goes.
    assert dampening(forget, full, 10.0, 1.0).tolist() == pytest.approx([1, 1, 1 / 11, 1 / 40, 1, 0])
    # λ = 20: 20/11 would grow the weight and is cut at 1.
    assert dampening(forget, full, 10.0, 20.0).tolist() == pytest.approx([1, 1, 1, 0.5, 1, 0])


def test_ssd_dampens_each_network_by_its_own_importances_and_alpha(monkeypatch):
    monkeypatch.setattr(fisher, "BATCH", 4)
    x, y, forget = data()
    models, alphas = start([0, 1], False), [1.0, 3.0]
    unlearn(models, x, y, forget, SSD(lam=0.5), lr=alphas, epochs=1)
    for k, before in enumerate(start([0, 1], False)):
        _, own = squares(before, x[k, forget[k]], y[k, forget[k]], 4)
        _, every = squares(before, x[k], y[k], 4)
        touched = 0
        for a, b, f, d in zip(models[k].parameters(), before.parameters(), own, every, strict=True):
            factor = torch.where(f > alphas[k] * d, (0.5 * d / f).clamp(max=1), torch.ones_like(d))
            torch.testing.assert_close(a.detach(), factor * b.detach(), rtol=1e-6, atol=1e-12)
            touched += int((factor < 1).sum())
        assert 0 < touched < sum(p.numel() for p in before.parameters())


def test_influence_steps_by_its_formula(monkeypatch):
    monkeypatch.setattr(fisher, "BATCH", 4)
    x, y, forget = data()
    models, scales = start([0, 1], False), [0.5, 2.0]
    unlearn(models, x, y, forget, Influence(damping=0.25), lr=scales, epochs=1)
    for k, before in enumerate(start([0, 1], False)):
        gradient, _ = squares(before, x[k, forget[k]], y[k, forget[k]], 4)
        kept = [i for i in range(N) if i not in forget[k].tolist()]
        _, curvature = squares(before, x[k, kept], y[k, kept], 4)
        mean = torch.cat([f.flatten() for f in curvature]).mean()
        for a, b, g, f in zip(models[k].parameters(), before.parameters(), gradient, curvature, strict=True):
            expected = b + scales[k] * 1.25 * mean / (f + 0.25 * mean) * g
            torch.testing.assert_close(a.detach(), expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [SSD(), Influence()])
def test_one_shot_methods_leave_quantiser_steps_and_statistics_alone(method):
    models = start([0, 1], True)
    unlearn(models, *data(), method, lr=1.0, epochs=1)
    for model, before in zip(models, start([0, 1], True), strict=True):
        first, moved = before.state_dict(), 0
        for name, value in model.state_dict().items():
            if name in steps(model) or name in dict(model.named_buffers()):
                assert torch.equal(value, first[name]), name
            else:
                moved += not torch.equal(value, first[name])
        assert moved >= 4


# Boundary shrink.


def test_the_nearest_label_is_across_the_boundary():
    # A linear network on two pixels, three classes: logits (a, b, −5). From (0.6, 0.5), class 0, the gradient's sign
    # is (−, +): a step of 0.1 · range 1 crosses to class 1. From (0.9, 0.1) it crosses nothing, and the most
    # probable wrong class there is still 1, not the true one.
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([0.0, 0.0, -5.0]))
    x = torch.tensor([[0.6, 0.5], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0]]).view(1, 4, 1, 1, 2)
    own = {"seeds": [0], "lr": torch.ones(1), "epochs": 1, "batch_size": 2}
    t = Task([model], x, torch.tensor([[0, 0, 1, 0]]), torch.tensor([[0, 1]]), torch.tensor([[2, 3]]), **own)
    assert BoundaryShrink().nearest(t).tolist() == [[1], [1]]
    assert BoundaryShrink(bound=0.01).nearest(t).tolist() == [[1], [1]]


def test_nearest_labels_of_each_network_by_an_fgsm_step():
    t = task()
    found = BoundaryShrink(bound=0.2).nearest(t)
    differs = 0
    for k, model in enumerate(start(range(2), False)):
        model.eval()
        images, truth = t.x[k, t.forget[k]].requires_grad_(), t.y[k, t.forget[k]]
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), truth, reduction="sum"), images)
        low, high = t.x[k].min(), t.x[k].max()
        with torch.no_grad():
            plain = model(images).scatter(1, truth[:, None], -torch.inf).argmax(1)
            crossed = (images + 0.2 * (high - low) * gradient.sign()).clamp(low, high)
            expected = model(crossed).scatter(1, truth[:, None], -torch.inf).argmax(1)
        assert torch.equal(found[:, k], expected)
        assert not (found[:, k] == truth).any()
        differs += int((plain != expected).sum())
    assert differs > 0, "the step changes no label: the test would not see it"


def test_boundary_shrink_descends_on_forget_samples_with_their_labels():
    t, method = task(), BoundaryShrink()
    method.begin(t)
    nearest = t.memory["nearest"]
    batches = list(t.batches(t.forget, 0))
    for batch, _ in zip(batches, method.epoch(t, 0), strict=True):
        for k, model in enumerate(start(range(2), False)):
            rows = [t.forget[k].tolist().index(i) for i in batch[:, k].tolist()]
            loss = F.cross_entropy(model.train()(t.x[k, batch[:, k]]), nearest[rows, k])
            for p, g in zip(t.parameters, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                torch.testing.assert_close(t.split(p.grad)[k].view_as(g), g, rtol=1e-9, atol=1e-12)


# LAF.


def test_the_autoencoder_is_one_of_linear_layers():
    generator = torch.Generator().manual_seed(1)
    widths = [(5, 4), (4, 3), (3, 4), (2, 3), (3, 4), (4, 5)]
    layers = [[nn.Linear(a, b).double() for a, b in widths] for _ in range(2)]
    parameters = []
    for i in range(6):
        parameters.append(torch.stack([own[i].weight.T for own in layers]).detach())
        parameters.append(torch.stack([own[i].bias[None] for own in layers]).detach())
    features, noise = (torch.randn(2, 7, d, generator=generator, dtype=torch.float64) for d in (5, 2))
    error, divergence = vae.reconstruct(parameters, features, noise)
    for k, own in enumerate(layers):
        hidden = own[1](own[0](features[k]).relu()).relu()
        mean, log_variance = own[2](hidden).chunk(2, -1)
        output = own[5](own[4](own[3](mean + (log_variance / 2).exp() * noise[k]).relu()).relu())
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(-1)
        torch.testing.assert_close(error[k], ((output - features[k]) ** 2).sum(-1))
        torch.testing.assert_close(divergence[k], kl)


def test_training_the_autoencoder_lowers_its_error_on_what_it_saw():
    t = task()
    features = t.original.features(t.images(ALL[:, None].expand(-1, 2))).detach().transpose(0, 1)
    every, forget = vae.train(t, features, ALL.expand(2, -1), 1), vae.train(t, features, t.forget, 2)
    assert [p.shape[0] for p in every] == [2] * 12
    assert not any(p.requires_grad for p in every)
    zero = (features**2).sum(-1).mean(1)
    error = vae.reconstruct(every, features)[0].mean(1)
    assert (error < 0.95 * zero).all()
    t.seeds = [0, 5]
    again = vae.train(t, features, t.forget, 2)
    for a, b in zip(again, forget, strict=True):
        assert torch.equal(a[0], b[0])
        assert not torch.equal(a[1], b[1])


def test_losses_by_hand():
    features = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(3)).double()
    shapes = [(4, 2), (1, 2), (1, 4), (1, 4)]
    # An encoder of zeros and a decoder that always answers (1, 1, 1, 1): m = Σ (f − 1)².
    parameters = [torch.zeros(2, *shape).double() for shape in shapes]
    parameters[3] += 1
    m = ((features - 1) ** 2).sum(-1)
    torch.testing.assert_close(strangeness(parameters, features), (m / (m + 1)).exp().mean(0))
    first = features.roll(1, -1)
    away = 1 - (features * first).sum(-1) / (features.norm(dim=-1) * first.norm(dim=-1))
    found = contrast(features, first, 2 * features, -first, temperature=5.0)
    torch.testing.assert_close(found, away.mean(0) - ((2 - away) / 5).exp().sum(0).log())


def test_laf_holds_the_classifier_and_steps_twice_a_pair():
    t, method = task(epochs=2), LAF()
    method.begin(t)
    head = {id(p) for p in t.net.head.parameters()}
    count = 0
    for _ in method.epoch(t, 1):
        count += 1
        for parameter in t.parameters:
            assert (id(parameter) in head) == (not parameter.grad.any())
    assert count == 2 * 4
    repaired = LAF(repair=True)
    repaired.begin(t)
    assert sum(1 for _ in repaired.epoch(t, 0)) == 2 * 4
    assert sum(1 for _ in repaired.epoch(t, 1)) == 2 * 4 + 4
    # cos(π/2) leaves half the peak in the second of two epochs: the repair's gradient is doubled.
    *_, batch = t.batches(t.retain, 1)
    found = [p.grad for p in t.parameters]
    for k, model in enumerate(start(range(2), False)):
        loss = 2 * F.cross_entropy(model.train()(t.x[k, batch[:, k]]), t.y[k, batch[:, k]])
        for g, own in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            torch.testing.assert_close(t.split(g)[k].view_as(own), own, rtol=1e-9, atol=1e-12)


def test_laf_keeps_retain_features_familiar_and_makes_forget_features_strange():
    t, method = task(), LAF()
    method.begin(t)
    forget, retain = next(t.paired(0))
    next(iter(method.epoch(t, 0)))
    for k, model in enumerate(start(range(2), False)):
        losses = []
        for name, batch in (("all", retain), ("forget", forget)):
            parameters = [t.memory[f"{name}.{i}"][k : k + 1] for i in range(12)]
            m, _ = vae.reconstruct(parameters, model.eval().features(t.x[k, batch[:, k]])[None])
            losses.append((m / (m + 1)).exp().mean())
        expected = torch.autograd.grad(losses[0] - losses[1], list(model.body.parameters()))
        for p, g in zip(t.parameters, expected, strict=False):  # the body's come first
            torch.testing.assert_close(t.split(p.grad)[k].view_as(g), g, rtol=1e-8, atol=1e-14)


def test_laf_moves_forget_features_further_than_retain_features():
    t, method = task(1, epochs=1), LAF(alignment=1.0)
    method.begin(t)
    original = t.original
    for _ in range(10):
        for _ in method.epoch(t, 0):
            with torch.no_grad():
                for parameter in t.parameters:
                    parameter -= 0.05 * parameter.grad
    with torch.no_grad():
        t.net.eval()
        cosines = [F.cosine_similarity(t.net.features(z), original.features(z), dim=-1).mean()
                   for z in (t.images(t.forget.T), t.images(t.retain.T))]  # fmt: skip
    assert cosines[0] < cosines[1]


def test_laf_needs_features():
    x, y, forget = data(1, torch.float32)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, CLASSES))
    with pytest.raises(ValueError, match="models: LAF needs networks with `features`"):
        unlearn([plain], x, y, forget, LAF(), lr=0.1)
