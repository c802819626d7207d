"""Importances, and which parameters an update moves."""

import math

import pytest
import torch
from language_problems import SETTINGS, data, first_step, model, rows_logprobs, sparse, state, task
from torch import nn

from palimpsest.nets import language
from palimpsest.pruning import random_masks
from palimpsest.unlearning.language import (
    NPO,
    SAU,
    Update,
    importances,
    pruned_share,
    unlearn,
)
from palimpsest.unlearning.language.importance import normalised
from palimpsest.unlearning.language.update import movable

# Importances.


def test_importance_is_normalised_over_the_survivors_of_a_row():
    scores = torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 0.0], [4.0, 4.0, 4.0]])
    kept = torch.tensor([[True, False, True], [True, False, True], [False, False, False]])
    assert normalised(scores, kept).tolist() == [[0.5, 0, 1.5], [1, 0, 1], [0, 0, 0]]


def test_importances_are_those_of_their_definitions():
    net = model()
    masks = sparse(net, 0.6)
    problem = task(net, masks)
    drawn = problem.retain_rows(0).tolist()
    assert len(drawn) == len(problem.forget)
    expected = {"wanda": _wanda(net, problem.retain, drawn, masks)}
    parameters = [net.get_parameter(n) for n in masks.kept]

    def slopes(logs):
        return torch.autograd.grad(-sum(v.sum() for v in logs), parameters)

    whole = slopes(rows_logprobs(net, problem.forget, range(len(problem.forget))))
    expected["saliency"] = [(p * g).abs() for p, g in zip(parameters, whole, strict=True)]

    def fisher(encoded, rows):
        each = [slopes(rows_logprobs(net, encoded, [row])) for row in rows]
        return [sum(g.square() for g in own) for own in zip(*each, strict=True)]

    f, r = fisher(problem.forget, range(len(problem.forget))), fisher(problem.retain, drawn)
    expected["fisher"] = [a / (b + b.mean()) for a, b in zip(f, r, strict=True)]
    for kind, scores in expected.items():
        found = importances(problem, kind)
        assert list(found) == list(masks.kept)
        for (name, kept), score in zip(masks.kept.items(), scores, strict=True):
            own = torch.where(kept, score, 0)
            own = own / (own.sum(1, keepdim=True) / kept.sum(1, keepdim=True))
            assert torch.allclose(found[name], own, rtol=1e-8, atol=0), (kind, name)
            assert torch.allclose(found[name].sum(1) / kept.sum(1), torch.ones(len(kept), dtype=torch.float64))


def _wanda(net, encoded, rows, masks):
    """|W| times the norms of the inputs of each matrix over the tokens of `rows`, each passed alone."""
    norms = {name: 0 for name in masks.kept}
    hooks = [
        net.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, inputs, name=name: norms.__setitem__(name, norms[name] + inputs[0][0].square().sum(0))
        )
        for name in norms
    ]
    rows_logprobs(net, encoded, rows)
    for hook in hooks:
        hook.remove()
    return [(net.get_parameter(name).abs() * norm.sqrt()).detach() for name, norm in norms.items()]


def test_the_share_of_the_gradient_that_pruned_weights_have():
    net, (forget, _, _) = model(), data()
    masks = sparse(net, 0.7)
    shares = pruned_share(net, forget, masks, batch_size=4)
    parameters = [net.get_parameter(n) for n in masks.kept]
    logs = rows_logprobs(net, forget, range(len(forget)))
    slopes = torch.autograd.grad(sum(v.sum() for v in logs), parameters)
    for (name, kept), g in zip(masks.kept.items(), slopes, strict=True):
        assert shares[name] == pytest.approx((g[~kept].square().sum() / g.square().sum()).item(), rel=1e-9)
    assert 0.1 < sum(shares.values()) / len(shares) < 0.5


# What moves.


def test_tied_embeddings_are_one_parameter():
    net = model()
    names = list(movable(net, Update()))
    assert names == [name for name, _ in net.named_parameters()]
    assert "model.embed_tokens.weight" in names
    assert not any("lm_head" in name for name in names)
    start, (forget, retain, _) = state(net), data()
    unlearn(net, forget, retain, NPO(), **SETTINGS)
    assert net.lm_head.weight is net.model.embed_tokens.weight
    assert not torch.equal(net.lm_head.weight, start["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("update", "moves"),
    [
        (Update(trainable="linear"), lambda name: "proj" in name),
        (Update(top=1), lambda name: name.startswith("model.layers.1.")),
        (Update(top=2, trainable="linear"), lambda name: "proj" in name),
    ],
)
def test_only_what_was_asked_for_moves(update, moves):
    net, (forget, retain, _) = model(), data()
    net.model.norm.weight.requires_grad_(False)
    start = state(net)
    unlearn(net, forget, retain, NPO(), update=update, **SETTINGS)
    for name, p in net.named_parameters():
        assert torch.equal(p, start[name]) == (not moves(name)), name
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["model.norm.weight"]


def test_masks_of_layers_that_do_not_move_are_kept_as_well():
    net, (forget, retain, _) = model(), data()
    masks, start = sparse(net), state(net)
    unlearn(net, forget, retain, SAU(), update=Update(masks, top=1), **SETTINGS)
    for name, kept in masks.kept.items():
        p = net.get_parameter(name)
        assert torch.equal(p[~kept], start[name][~kept])
        assert torch.equal(p, start[name]) == name.startswith("model.layers.0.")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Update(scaling="other"), "scaling: got 'other', want one of"),
        (lambda: Update(importance="other"), "importance: got 'other'"),
        (lambda: Update(trainable="other"), "trainable: got 'other'"),
        (lambda: Update(lost="other"), "lost: got 'other'"),
        (lambda: Update(optimiser="other"), "optimiser: got 'other'"),
        (lambda: Update(sparse(model()), "boost", optimiser="sgd"), "optimiser: got 'sgd' for scaling 'boost'"),
        (lambda: Update(scaling="redistribute"), "masks: got None, want those of the pruned model"),
        *((lambda v=v: Update(c_max=v), "c_max: got ") for v in (1, 0.5, math.nan, "2")),
        *((lambda v=v: Update(eps=v), "eps: got ") for v in (0, -1.0, math.nan)),
        *((lambda v=v: first_step(Update(top=v)), f"top: got {v}, want 1 to 2 layers") for v in (0, 3, True)),
        (lambda: first_step(Update(), SAU()), "update: got no masks"),
        (lambda: first_step(Update(sparse(model()), "boost"), SAU()), "update: got scaling 'boost'"),
        (lambda: first_step(Update(random_masks(other(), 0.5, 0))), "masks: got "),
    ],
)
def test_updates_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def other() -> nn.Module:
    return language.small_llama(60, 0, hidden=32, layers=3, heads=4, kv_heads=2, intermediate=48)
