"""The probes: noise, coefficients and injected labels against direct computations."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from palimpsest.chapters.unlearning_quantised import probes
from palimpsest.chapters.unlearning_quantised.arms import FIXED
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.kernels import softmax_entropy
from palimpsest.runs import paths
from palimpsest.unlearning.vision.labels import most_similar, random_wrong


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        sizes = {"samples": 60, "validation": 40, "test": 40, "epochs": 2, "retain_samples": 12}
        patch.setitem(PROFILES, "tiny", replace(PROFILES["smoke"], name="tiny", qat_lr=0.001, **sizes))
        patch.setattr(probes, "DRAWS", 3)
        yield


def test_a_step_that_would_take_quantiser_steps_below_zero(monkeypatch):
    monkeypatch.setattr(probes, "STEP_SIZES", (1e-4, 1e4))
    rows = probes.first_order("tiny", "W4A4")
    assert {row["step"] for row in rows} == {1e-4, 1e4}
    assert all(math.isfinite(row["change"]) for row in rows)


def test_the_relative_variance_of_a_gaussian():
    # g = m + s z with z standard normal in P dimensions: tr Cov = s² P, so that s² P / ‖m‖² is looked for.
    n, P, generator = 400, 50, torch.Generator().manual_seed(0)
    m = torch.randn(2, P, generator=generator, dtype=torch.float64)
    spread = torch.tensor([0.3, 2.0], dtype=torch.float64)[:, None]
    draws = m + spread * torch.randn(n, 2, P, generator=generator, dtype=torch.float64)
    variance, square = spread[:, 0].square() * P, m.square().sum(1)
    found = probes.relative_variance(draws)
    # Numerator: a sum of n P squares, relative error √(2 / nP). ‖ḡ‖² has the standard deviation 2 s ‖m‖ / √n, up to
    # √(2P) s² / n. Four of them together.
    error = (
        math.sqrt(2 / (n * P))
        + 2 * (spread[:, 0] / (square * n).sqrt())
        + math.sqrt(2 * P) * variance / P / n / square
    )
    assert ((found / (variance / square) - 1).abs() <= 4 * error).all()
    # With few draws ‖ḡ‖² is s² P / n too large, which is half of it here: the estimate must not be.
    few = draws.view(40, 10, 2, P)[:, :, 1:]
    one = torch.stack([probes.relative_variance(group) for group in few]).squeeze(1)
    plain = torch.stack([g.var(0).sum(1) / g.mean(0).square().sum(1) for g in few]).squeeze(1)
    truth = (variance / square)[1]
    assert plain.mean() < 0.8 * truth
    # ‖m‖² from ten draws varies by 2 s / (‖m‖ √10), a fifth here; its inverse is above by the square of that.
    spread_of_one = (2 * spread[1, 0] / (square[1] * 10).sqrt()).item()
    assert abs(one.mean() / truth - 1) <= 4 * spread_of_one / math.sqrt(40) + 2 * spread_of_one**2
    # Nothing but noise: the denominator stays above a thousandth of ‖ḡ‖².
    noise = torch.randn(4, 1, P, generator=generator, dtype=torch.float64)
    centred = noise - noise.mean(0) + 1e-3
    limit = 1000 * centred.var(0).sum() / centred.mean(0).square().sum()
    assert probes.relative_variance(centred).item() == pytest.approx(limit.item(), rel=1e-9)


@pytest.fixture(scope="module")
def task():
    """The originals in float64, in evaluation mode."""
    task = probes._task(Cohort.named("tiny", "W4A4", "random 10 %"))
    task.net.eval()
    return task


def on_batches(task, k: int) -> list[torch.Tensor]:
    """The gradient of network k on each of its retain batches."""
    return [on_samples(task, k, batch[:, k]) for batch in task.batches(task.retain, 0)]


def on_samples(task, k: int, own: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Of cross-entropy on these samples, with their labels or other ones."""
    labels = task.y[k, own] if labels is None else labels
    return gradient(task, k, lambda net: F.cross_entropy(net(task.x[k, own]), labels))


def gradient(task, k: int, loss) -> torch.Tensor:
    """[P] of the loss of network k alone."""
    model = task.models[k].eval()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(model), list(model.parameters()))])


def test_labels_that_are_not_drawn_have_no_label_noise(task):
    rows = probes.noise("tiny", "W4A4")
    assert [(r["loss"], r["seed"]) for r in rows] == [
        (loss, seed) for loss in ("random labels", "similar labels", "entropy", "KL(u, p)") for seed in (0, 1)
    ]
    for row in rows:
        # 6 samples in one batch of 10: nothing but its order varies, which float64 sums to 1e-15 or so.
        if row["loss"] == "random labels":
            assert 1e-6 < row["label_noise"] == row["noise"]
        else:
            assert 0 <= row["label_noise"] < 1e-20
            assert 0 <= row["noise"] < 1e-20
    # The gradients themselves, against one network at a time.
    truth = task.labels(task.forget.T)
    similar = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    found = {(row["loss"], row["seed"]): row for row in rows}
    for k in range(2):
        g = on_samples(task, k, task.forget[k], similar[:, k])
        g_r = torch.stack(on_batches(task, k)).mean(0)
        row = found["similar labels", k]
        assert row["cosine"] == pytest.approx(F.cosine_similarity(g, g_r, dim=0).item(), rel=1e-8)
        sizes = [p.numel() for p in task.models[k].parameters()]
        for name, whole in (("G_f", g), ("G_r", g_r)):
            assert row[name] == pytest.approx(sum(part.norm() for part in whole.split(sizes)).item(), rel=1e-8)
    # And the noise of labels drawn anew, by hand from three draws.
    for k in range(2):
        labels = [random_wrong(task, truth, draw)[:, k] for draw in range(3)]
        draws = torch.stack([on_samples(task, k, task.forget[k], wrong) for wrong in labels])
        expected = probes.relative_variance(draws[:, None]).item()
        assert found["random labels", k]["label_noise"] == pytest.approx(expected, rel=1e-8)


def test_coefficients_are_root_mean_squares_over_pairs_of_batches(task):
    rows = probes.coefficients("tiny", "W4A4")
    forget = next(task.batches(task.forget, 0))
    for k, row in enumerate(rows):
        x = task.x[k, forget[:, k]]
        g_f = gradient(task, k, lambda net, x=x: -softmax_entropy(net(x)).mean())
        g_r = on_batches(task, k)
        plain = torch.stack([g @ g_f for g in g_r])
        left = [
            other @ (g_f - (own @ g_f) / (own @ own) * own)
            for i, own in enumerate(g_r)
            for j, other in enumerate(g_r)
            if i != j
        ]
        assert row["seed"] == k
        assert row["plain"] == pytest.approx(plain.square().mean().sqrt().item(), rel=1e-8)
        assert row["projected"] == pytest.approx(torch.stack(left).square().mean().sqrt().item(), rel=1e-8)


@pytest.mark.parametrize("method", ["SalUn", "Q-MUL", "fine-tune"])
def test_injected_labels_are_counted_on_the_forget_set(monkeypatch, task, method):
    asked = []
    cohort = Cohort.named("tiny", "W4A4", "random 10 %")

    def forget(cohort, name, method, networks, values):
        asked.append((name, method, networks, values))
        return cohort.load("retrain"), None

    monkeypatch.setattr(probes, "forget", forget)
    # What a network says is made up: the injected label on the first two samples of six, after unlearning on three.
    truth = task.labels(task.forget.T)
    wrong = random_wrong(task, truth, 0)
    if method == "Q-MUL":
        wrong = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    right = iter((3, 2))

    def logits(models, x):
        named = wrong.T.clone()
        first = next(right)
        named[:, first:] = truth.T[:, first:]
        assert torch.equal(x, cohort.x[torch.arange(2)[:, None], cohort.forget])
        return F.one_hot(named, 10).float()

    monkeypatch.setattr(probes.training, "logits", logits)
    rows = probes.injected_labels("tiny", method, [0.1, 0.2])
    assert [(row["method"], row["seed"]) for row in rows] == [(method, 0), (method, 1)]
    assert [row["agreement"] for row in rows] == pytest.approx([3 / 6] * 2)
    assert [row["of_retrain"] for row in rows] == pytest.approx([2 / 6] * 2)
    ((name, used, networks, values),) = asked
    assert (name, networks, values) == (method, [0, 1], [0.1, 0.2])
    assert used == FIXED.get(method, used)
    assert (method in FIXED) == getattr(used, "fixed", False)


def test_a_course_looks_before_every_other_step_and_at_the_end():
    # 12 retain samples in two batches of at most ten: one look before the first step, one at the end.
    rows = probes.along("tiny", "float", "OEU", [1e-6, 1e-6])
    assert [(row["look"], row["seed"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    cohort = Cohort.named("tiny", "float", "random 10 %")
    for k, (row, model) in enumerate(zip(rows, cohort.load("original"), strict=False)):
        with torch.no_grad():
            forget, retain = (model.eval()(cohort.x[k, part[k]]) for part in (cohort.forget, cohort.retain))
        entropy = softmax_entropy(forget).mean().item()
        loss = F.cross_entropy(retain, cohort.y[k, cohort.retain[k]]).item()
        # A step of 10⁻⁶ moves neither by more than a thousandth of a nat.
        assert row["entropy"] == pytest.approx(entropy, abs=1e-3)
        assert row["retain_loss"] == pytest.approx(loss, abs=1e-3)


def test_conflict_has_a_row_for_each_pair_and_one_for_each_balance():
    rows = probes.conflict("tiny", "float", [1e-3, 1e-3])
    balances = [row for row in rows if "balance" in row]
    pairs = [row for row in rows if "cosine" in row]
    assert [(row["epoch"], row["seed"]) for row in balances] == [(0, 0), (0, 1)]
    assert [row["seed"] for row in pairs] == [0, 1] * 2  # 12 retain samples in two batches
    for row in pairs:
        assert -1 <= row["cosine"] <= 1
        assert -1 <= row["null"] <= 1
        assert row["by_retain"] < 0
        assert (row["by_forget"] > 0) == (row["cosine"] < 0)
