"""Masks, scales and the step: the redistribution's invariant, its place after Adam, the control, the importances."""

import math

import pytest
import torch
from language_problems import SETTINGS, data, first_step, model, same_bits, sparse, state, task
from transformers import GemmaConfig, GemmaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from palimpsest.pruning import prune
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.language import (
    METHODS,
    NPO,
    SAU,
    GradDiff,
    LoraSettings,
    Update,
    importances,
    redistribution,
    unlearn,
)
from palimpsest.unlearning.language.importance import normalised
from palimpsest.unlearning.language.optimiser import Survivors

EPS = 1e-300  # below every squared gradient of these tests in double precision


def matrices(rows=7, columns=11, seed=0):
    """A gradient, a mask and an importance; the mask leaves at least one survivor in each row."""
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    kept = torch.rand(rows, columns, generator=generator) < 0.5
    kept[:, 3] = True
    scores = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return grad, kept, normalised(scores, kept)


# Redistribution.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_unclipped_redistribution_restores_each_rows_first_order_progress(dtype):
    for seed in range(5):
        grad, kept, importance = (x.to(dtype) if x.is_floating_point() else x for x in matrices(seed=seed))
        c = redistribution(grad, kept, importance, math.inf, 1e-30)
        assert c.dtype == dtype
        assert (c[kept] >= 1).all()
        restored = (kept * c * grad * grad).sum(1)
        # Sums of 11 terms that are not negative, a division and three products: each rounds by eps/2 at most.
        assert torch.allclose(restored, grad.square().sum(1), rtol=30 * torch.finfo(dtype).eps, atol=0)


def test_redistribution_by_hand():
    grad = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    kept = torch.tensor([[True, False, True], [True, True, False]])
    importance = torch.tensor([[0.5, 9.0, 1.5], [1.0, 1.0, 9.0]], dtype=torch.float64)
    c = redistribution(grad, kept, importance, 1.3, EPS)
    lam = 4 / (0.5 * 1 + 1.5 * 9)  # the second row lost nothing, as its pruned gradient is 0
    assert c[0, 0].item() == pytest.approx(1 + 0.5 * lam, rel=1e-14)
    assert c[0, 2].item() == 1.3 < 1 + 1.5 * lam
    assert c[1, :2].tolist() == [1, 1]


def test_redistribution_is_finite_where_survivors_have_no_gradient_or_no_importance():
    grad = torch.tensor([[0.0, 1e20], [0.0, 0.0], [1.0, 1.0]])
    kept = torch.tensor([[True, False], [True, False], [True, False]])
    importance = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    c = redistribution(grad, kept, importance, 5.0, 1e-30)
    assert c[:, 0].tolist() == [5, 1, 1]


def test_redistribution_does_not_depend_on_the_gradients_scale():
    grad, kept, importance = matrices()
    whole = redistribution(grad, kept, importance, 10.0, EPS)
    small = redistribution(grad * 2.0**-30, kept, importance, 10.0, EPS)
    assert torch.equal(whole[kept], small[kept])


def test_redistribution_refuses_what_does_not_fit():
    grad, kept, importance = matrices()
    for wrong in ((grad[0], kept[0], importance[0]), (grad, kept[1:], importance), (grad, kept.double(), importance)):
        with pytest.raises(ValueError, match="grad, kept, importance: got shapes"):
            redistribution(*wrong, 2.0, EPS)


# The step.


def optimiser(kept, importance, update, value=1.0, weight_decay=0.0):
    parameters = {"w": torch.full(kept.shape, value, dtype=torch.float64)}
    return Survivors(parameters, {"w": kept}, {"w": importance}, update, weight_decay)


def run(gradients, kept, importance, update, **changes):
    adam = optimiser(kept, importance, update, **changes)
    for g in gradients:
        adam.step({"w": g.clone()}, 0.125)
    return adam.parameters["w"]


def scaling(kind, c_max=1e6, **changes):
    return Update(sparse(model()), scaling=kind, c_max=c_max, **changes)


def test_adam_undoes_a_redistribution_of_its_gradients_and_ours_comes_after():
    grad, kept, importance = matrices()
    # Small enough that clipping, which sees all weights at once, leaves them as they are.
    gradients = [grad * factor * 1e-3 for factor in (1.0, -0.5, 2.0)]
    c = redistribution(grad, kept, importance, 1e6, EPS)
    plain = run(gradients, kept, importance, Update(sparse(model())))
    before = run([g * c for g in gradients], kept, importance, Update(sparse(model())))
    after = run(gradients, kept, importance, scaling("redistribute", lost="gradient"))
    # Adam's eps is 1e-8 beside roots of 1e-5 and more: it may show in the third digit of the smallest, not in c.
    assert torch.allclose(before, plain, rtol=0, atol=3 * 0.125 * 1e-2)
    assert (before - plain).norm() < 1e-3 * (plain - 1).norm()
    moved, expected = (after - 1)[kept], ((plain - 1) * c)[kept]
    assert torch.allclose(moved, expected, rtol=1e-9, atol=0)
    assert (moved - (plain - 1)[kept]).norm() > 0.5 * (plain - 1).norm()
    assert torch.equal(after[~kept], torch.ones_like(after[~kept]))


def adam_by_hand(gradients):
    """Adam's direction after the last of these gradients, of every weight."""
    mean = square = torch.zeros_like(gradients[0])
    for g in gradients:
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
    steps = len(gradients)
    return (mean / (1 - 0.9**steps)) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)


def test_along_adams_direction_a_row_makes_the_progress_that_it_would_have_made_unpruned():
    """Also in later steps, when the direction is no longer the gradient's sign: pruned weights have moments too."""
    _, kept, importance = matrices()
    gradients = [matrices(seed=seed)[0] * 1e-3 for seed in range(4)]
    adam, before = optimiser(kept, importance, scaling("redistribute")), None
    for g in gradients:
        before = adam.parameters["w"].clone()
        adam.step({"w": g.clone()}, 0.125)
    moved = (before - adam.parameters["w"]) / 0.125
    direction = adam_by_hand(gradients)
    lost, held = ((direction * g * part).sum(1) for part in (~kept, kept))
    makes_up = (lost > 0) & (held > 0) & ((direction * g * kept * importance).sum(1) > 0)
    assert 1 < makes_up.sum() < len(makes_up)
    # Each of the weights, of size 1, is rounded once, and the step is 8 times smaller.
    progress, want = (moved * g).sum(1), torch.where(makes_up, lost + held, held)
    assert torch.allclose(progress, want, rtol=1e-9, atol=8 * 1e-3 * 11 * torch.finfo(torch.float64).eps)
    assert (adam.state[adam.parameters["w"]]["exp_avg"][~kept] != 0).all()


def test_sgd_takes_the_gradient_redistributed_and_leaves_pruned_weights():
    grad, kept, importance = matrices()
    grad = grad / grad.norm()
    c = redistribution(grad, kept, importance, 1e6, EPS)
    for kind, factor in (("none", 1.0), ("redistribute", c)):
        update = Update(sparse(model()), optimiser="sgd") if kind == "none" else scaling(kind, optimiser="sgd")
        moved = 1 - run([grad], kept, importance, update, weight_decay=0.25)
        clipped = (1 / ((grad * kept).norm() + 1e-6)).clamp(max=1)
        want = torch.where(kept, 0.125 * (clipped * grad * factor + 0.25), 0)
        assert torch.allclose(moved, want, rtol=1e-9, atol=1e-15)
        assert (moved[~kept] == 0).all()


def test_clipping_sees_the_masked_gradient_only():
    grad, kept, importance = matrices()
    grad[~kept] = 1e6
    adam = optimiser(kept, importance, Update(sparse(model())))
    seen = adam.step({"w": grad}, 0.1)["norm"]
    assert seen == pytest.approx(grad[kept].norm().item(), rel=1e-12)
    moment = adam.state[adam.parameters["w"]]["exp_avg"]
    assert moment.norm().item() == pytest.approx(0.1, rel=1e-5)  # clipped to norm 1, times 1 - beta_1
    assert (grad[~kept] == 1e6).all()  # the caller's gradient is not written to


def test_boost_moves_as_far_as_redistribution_and_all_weights_alike():
    grad, kept, importance = matrices()
    for decay in (0.0, 0.5):
        moved = {}
        for kind in ("none", "boost", "redistribute"):
            update = Update(sparse(model())) if kind == "none" else scaling(kind, 2.0)
            moved[kind] = run([grad], kept, importance, update, weight_decay=decay)[kept] - 1 + 0.125 * decay
        assert moved["boost"].norm().item() == pytest.approx(moved["redistribute"].norm().item(), rel=1e-12)
        factors = moved["boost"] / moved["none"]
        assert factors.max() - factors.min() < 1e-12 < factors.mean() - 1.1


def test_decay_is_for_matrices_and_is_not_scaled():
    kept, importance = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.float64)
    kept[0, 0] = False
    parameters = {name: torch.full(shape, 2.0, dtype=torch.float64) for name, shape in SHAPES.items()}
    adam = Survivors(parameters, {"pruned": kept}, {"pruned": importance}, scaling("redistribute"), 0.5)
    adam.step({name: torch.zeros_like(p) for name, p in parameters.items()}, 0.1)
    assert parameters["pruned"].flatten().tolist() == [2.0] + [2 * (1 - 0.05)] * 3
    assert parameters["matrix"].flatten().tolist() == [2 * (1 - 0.05)] * 4
    assert parameters["norm"].tolist() == [2.0, 2.0]


SHAPES = {"pruned": (2, 2), "matrix": (2, 2), "norm": (2,)}


def test_a_gradient_that_is_not_finite_moves_nothing():
    grad, kept, importance = matrices()
    for where in (kept, ~kept):
        adam = optimiser(kept, importance, scaling("redistribute"))
        grad[where] = math.nan
        with pytest.raises(TrainingDiverged, match="norm of the gradient is nan"):
            adam.step({"w": grad}, 0.1)
        assert (adam.parameters["w"] == 1).all()
        assert adam.steps == 0


# The arms, through the whole loop.


def test_the_first_update_of_each_arm():
    masks = sparse(model())
    none, _ = first_step(Update(masks))
    spread, report = first_step(Update(masks, "redistribute", lost="gradient", c_max=4.0))
    boost, boosted = first_step(Update(masks, "boost", lost="gradient", c_max=4.0))
    sau, _ = first_step(Update(masks, lost="gradient", c_max=4.0), SAU())
    problem = task(model(), masks)
    NPO().begin(problem)
    problem.batch_size = 8
    gradients = NPO().gradients(problem, *next(problem.batches(0)))
    wanda = importances(problem, "wanda")
    for name in none:
        assert torch.equal(sau[name], spread[name])
        if name in masks.kept:
            kept = masks.kept[name]
            c = redistribution(gradients[name], kept, wanda[name], 4.0, 1e-30)
            # One ulp of the weight (below 2) in each of the two runs, over a movement of 1e-3.
            assert torch.allclose(spread[name], torch.where(kept, c, 0) * none[name], rtol=0, atol=1e-15)
            assert torch.allclose(boost[name], boosted.log[0]["scale"] * none[name], rtol=0, atol=1e-15)
            assert (spread[name] - none[name]).norm() > 0.1 * none[name].norm()
        else:  # what is not pruned moves alike in all arms
            assert torch.equal(none[name], spread[name])
            assert torch.equal(none[name], boost[name])
    far = [math.sqrt(sum(moved[n].square().sum() for n in masks.kept)) for moved in (spread, boost)]
    assert far[0] == pytest.approx(far[1], rel=1e-10)
    assert report.log[0]["scale"] > 1.2 < boosted.log[0]["scale"]
    assert "scale" not in first_step(Update(masks))[1].log[0]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", METHODS)
def test_pruned_weights_keep_every_bit(name, weight_decay):
    net, (forget, retain, idk) = model(dtype=torch.float32), data()
    masks = sparse(net)
    with torch.no_grad():  # pruned weights are mostly not zero; some are the zero whose sign a sum would lose
        for n, kept in masks.kept.items():
            net.get_parameter(n)[0, ~kept[0]] = -0.0
    start = state(net)
    unlearn(net, forget, retain, METHODS[name], update=Update(masks), idk=idk, weight_decay=weight_decay, **SETTINGS)
    moved = 0
    for n, kept in masks.kept.items():
        p = net.get_parameter(n).detach()
        assert same_bits(p[~kept], start[n][~kept]), n
        moved += int((p != start[n]).sum())
        if not n.startswith("model.layers.1.") or name != "RMU":
            assert (p != start[n])[kept].float().mean() > 0.9
    assert moved > 0
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("kind", ["wanda", "saliency", "fisher"])
@pytest.mark.parametrize("arm", ["redistribute", "boost"])
def test_scaled_arms_keep_pruned_weights_too(arm, kind):
    net, (forget, retain, _) = model(dtype=torch.float32), data()
    masks = sparse(net)
    start = state(net)
    unlearn(net, forget, retain, GradDiff(), update=Update(masks, arm, kind), **SETTINGS)
    assert all(same_bits(net.get_parameter(n).detach()[~kept], start[n][~kept]) for n, kept in masks.kept.items())


FAMILIES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "gemma": (GemmaConfig, GemmaForCausalLM)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LoraSettings(2, 4)])
def test_other_decoders_unlearn_and_stay_sparse(family, lora):
    config, architecture = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = architecture(
            config(
                vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )
        )  # fmt: skip
    masks, (forget, retain, _) = prune(net, None, method="magnitude", sparsity="2:4"), data()
    start = state(net)
    unlearn(net, forget, retain, SAU() if lora is None else NPO(), update=Update(masks), lora=lora, **SETTINGS)
    assert masks.holds(net)
    for name, kept in masks.kept.items():
        assert (net.get_parameter(name) != start[name])[kept].float().mean() > 0.9


def test_masks_that_begin_at_the_second_step_are_noticed(monkeypatch):
    """The moments of the first step would go on moving pruned weights; here its own movement is enough."""
    kernel = __import__("palimpsest.unlearning.language.optimiser", fromlist=["masked_adamw_"])

    def late(params, grads, exp_avg, exp_avg_sq, masks, scales, *, step, **rest):
        masks = [torch.ones_like(m) for m in masks] if step == 1 else masks
        masked(params, grads, exp_avg, exp_avg_sq, masks, scales, step=step, **rest)

    masked = kernel.masked_adamw_
    monkeypatch.setattr(kernel, "masked_adamw_", late)
    net, (forget, retain, _) = model(), data()
    with pytest.raises(RuntimeError, match="a pruned weight changed"):
        unlearn(net, forget, retain, NPO(), update=Update(sparse(net)), **SETTINGS)
