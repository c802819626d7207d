"""Labels, Q-MUL and OEU: every rule by hand, every projection by its inner products."""

import pytest
import torch
from torch.nn import functional as F
from vision_problems import CLASSES, SETTINGS, N, cosine, data, minus, start, task

from palimpsest.nets.quantised import steps
from palimpsest.unlearning.vision import OEU, QMul, relabel, unlearn
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.qmul import QUIRKS
from palimpsest.unlearning.vision.task import Task, cross_entropy

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
    assert not torch.equal(labels, random_wrong(t, truth, 0, turn=1))
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


def restore(t: Task, buffers: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(t.net.buffers(), buffers, strict=True):
            buffer.copy_(value)


def test_each_quirk_by_hand():
    forget = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(k))[:16] for k in range(2)])
    t = task(2, forget=forget)
    with torch.no_grad():
        t.net.head.weight.mul_(5)  # logits far from probabilities
    truth = t.labels(forget.T)
    z = t.evaluate(t.images(forget.T))
    p = z.softmax(-1)
    intended = QMul().similar(t, truth, 0)
    found, start_of = {}, [b.clone() for b in t.net.buffers()]
    for quirk in QUIRKS:
        restore(t, start_of)
        found[quirk] = QMul(official_quirks=(quirk,)).similar(t, truth, 0)
        moved = not all(torch.equal(a, b) for a, b in zip(t.net.buffers(), start_of, strict=True))
        assert moved == (quirk == "statistics"), quirk
        assert not torch.equal(found[quirk], intended), quirk
    # Distance: of a wrong class's logit from the true class's probability.
    for i in range(16):
        for k in range(2):
            y, wrong = truth[i, k].item(), [c for c in range(CLASSES) if c != truth[i, k]]
            nearest = min(wrong, key=lambda c: abs(z[i, k, c] - p[i, k, y]))
            assert found["distance"][i, k] == nearest
            # Position: the intended class's place among the wrong ones, taken for a class.
            assert found["position"][i, k] == wrong.index(intended[i, k])
    assert (found["position"] == truth).any()
    # Order: the intended labels, each network's in another order, another one in each epoch.
    for k in range(2):
        assert torch.equal(found["order"][:, k].sort().values, intended[:, k].sort().values)
    assert not torch.equal(found["order"], QMul(official_quirks=("order",)).similar(t, truth, 1))
    # Statistics: the rule itself, on logits in training mode.
    restore(t, start_of)
    with torch.no_grad():
        trained = torch.cat([t.net(part) for part in t.images(forget.T).split(t.batch_size)])
    assert torch.equal(found["statistics"], most_similar(trained.softmax(-1), truth))
    # All four are what they are together.
    restore(t, start_of)
    together = QMul(official_quirks=QUIRKS).similar(t, truth, 0)
    restore(t, start_of)
    assert torch.equal(QMul(official_quirks=True).similar(t, truth, 0), together)
    restore(t, start_of)
    assert torch.equal(QMul(official_quirks=()).similar(t, truth, 0), intended)


@pytest.mark.parametrize("quirks", [(), ("distance",), ("position",), ("order",), ("statistics",), True])
def test_statistics_move_in_norm_passes_by_their_quirk_alone(quirks):
    t = task(2)
    wrong = random_wrong(t, t.labels(t.forget.T), 0)
    before = [b.clone() for b in t.net.buffers()]
    QMul(official_quirks=quirks).norms(t, 0, wrong)
    moved = not all(torch.equal(a, b) for a, b in zip(t.net.buffers(), before, strict=True))
    assert moved == (quirks is True or "statistics" in quirks)


# The mixed schedule.


def test_the_mixed_schedule_is_one_shuffled_order_with_a_weight_for_each_sample(monkeypatch):
    t = task(2, retain_samples=8)
    wrong = (t.labels(t.forget.T) + 1) % CLASSES
    forget_weight, retain_weight = torch.tensor([0.25, 0.5]), torch.tensor([0.75, 0.5])
    seen, images = [], t.images
    monkeypatch.setattr(t, "images", lambda batch: seen.append(batch) or images(batch))
    walk = relabel.shuffled(t, 1, wrong, forget_weight.double(), retain_weight.double())
    kinds = []
    for _ in walk:  # no step is made: every gradient is one of the networks as they were
        batch = seen[-1]
        for k, model in enumerate(start(range(2))):
            own = batch[:, k]
            is_forget = torch.isin(own, t.forget[k])
            loss = 0.0
            logits = model.train()(t.x[k, own])
            for i, sample in enumerate(own.tolist()):
                place = (t.forget[k] == sample).nonzero()
                label = wrong[place[0, 0], k] if is_forget[i] else t.y[k, sample]
                weight = (forget_weight if is_forget[i] else retain_weight)[k].item()
                loss = loss + weight * F.cross_entropy(logits[i : i + 1], label[None]) / len(own)
            kinds += is_forget.tolist() if k == 0 else []
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for parameter, gradient in zip(t.parameters, gradients, strict=True):
                found = t.split(parameter.grad)[k].view_as(gradient)
                torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)
    together = torch.cat(seen)
    for k in range(2):  # all of the forget set, and the retain samples of the epoch
        expected = torch.cat([t.forget[k], torch.cat(list(t.retained(1)))[:, k]])
        assert torch.equal(together[:, k].sort().values, expected.sort().values)
    assert sum(kinds) == 6
    assert len(kinds) - kinds[::-1].index(True) > 6, "the forget set came first"
    assert not all(kinds[:6])


def test_the_mixed_schedule_makes_a_step_of_torch_sgd():
    # One step on all 20 samples of a tiny problem; the forget set weighs 1/4, the rest 3/4.
    x, y, forget = data(1)
    method, models = QMul(schedule="mixed", weights=0.25, labels="random"), start([0])
    report = unlearn(models, x, y, forget, method, lr=0.125, epochs=1, batch_size=20, momentum=0.0, weight_decay=0.0)
    assert report.steps == 1
    t = task(1)
    labels, weights = y[0].clone(), torch.full((N,), 0.75, dtype=torch.float64)
    labels[forget[0]] = random_wrong(t, t.labels(forget.T), 0)[:, 0]
    weights[forget[0]] = 0.25
    model = start([0])[0].train()
    loss = (weights * F.cross_entropy(model(x[0]), labels, reduction="none")).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for before, gradient, after in zip(model.parameters(), gradients, models[0].parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.125 * gradient, rtol=1e-9, atol=1e-12)


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
