"""Objectives over whole distributions, against their formulas over the logits of one sequence at a time."""

import math

import pytest
import torch
from language_problems import R, begun, data, model, rows_logprobs, sparse, task

from palimpsest.nets.language import IGNORED
from palimpsest.unlearning.language import CEU, METHODS, NPO, NPOKL, PDU, GradDiff, GradDiffKL, Update, unlearn

# As in test_language_objectives.
EXACT = {"rel": 1e-9, "abs": 1e-12}
FORGET_ROWS, RETAIN_ROWS = [4, 1, 3], [7, 0, 2]


def rows_logits(net, encoded, rows):
    """(logits [tokens, V], answer tokens) of each row."""
    found = []
    for row in rows:
        counted = (encoded.labels[row] != IGNORED).nonzero().flatten()
        ids = encoded.ids[row, : int(counted.max()) + 1]
        found.append((net(input_ids=ids[None]).logits[0, counted], encoded.labels[row, counted]))
    return found


def token_mean(net, encoded, rows):
    return -torch.cat(rows_logprobs(net, encoded, rows)).mean()


def kl(problem):
    """Token by token, from probabilities."""
    terms = []
    now, before = (rows_logits(net, problem.retain, RETAIN_ROWS) for net in (problem.model, model()))
    for (z, _), (z_ref, _) in zip(now, before, strict=True):
        p, p_ref = z.exp() / z.exp().sum(1, keepdim=True), (z_ref.exp() / z_ref.exp().sum(1, keepdim=True)).detach()
        terms.append((p_ref * (p_ref / p).log()).sum(1))
    return torch.cat(terms).mean()


def ceu(problem):
    terms = []
    for z, tokens in rows_logits(problem.model, problem.forget, FORGET_ROWS):
        for t in range(1, len(tokens)):
            p = z[t].softmax(0)
            others = [k for k in range(len(p)) if k != tokens[t]]
            wanted = (p[others] / (1 - p[tokens[t]])).detach()
            terms.append(-(wanted * p[others].log()).sum())
    return torch.stack(terms).mean()


def flatness(problem):
    logits = torch.cat([z for z, _ in rows_logits(problem.model, problem.forget, FORGET_ROWS)])
    return torch.stack([(z.max() - z.sum() / len(z)) ** 2 for z in logits]).mean()


def of_npo(problem):
    before = [v.sum().detach() for v in rows_logprobs(model(), problem.forget, FORGET_ROWS)]
    now = [v.sum() for v in rows_logprobs(problem.model, problem.forget, FORGET_ROWS)]
    gaps = torch.stack(before) - torch.stack(now)
    return 2 / 0.3 * torch.log1p(torch.exp(-0.3 * gaps)).mean()


FORMULAS = {
    GradDiffKL(gamma=0.5, alpha=2.0): lambda v: -0.5 * token_mean(v.model, v.forget, FORGET_ROWS) + 2 * kl(v),
    NPOKL(beta=0.3): lambda v: of_npo(v) + kl(v),
    CEU(): ceu,
    CEU(gamma=2.0, alpha=0.5): lambda v: 2 * ceu(v) + 0.5 * token_mean(v.model, v.retain, RETAIN_ROWS),
    PDU(gamma=0.5, alpha=7.0, epsilon=0.2): lambda v: (
        0.5 * flatness(v) + 7 * (token_mean(v.model, v.retain, RETAIN_ROWS) - 0.2)
    ),
}


def batches(problem):
    return (
        problem.batch(problem.forget, torch.tensor(FORGET_ROWS)),
        problem.batch(problem.retain, torch.tensor(RETAIN_ROWS)),
    )


@pytest.mark.parametrize("method", FORMULAS, ids=lambda method: type(method).__name__)
def test_a_loss_and_its_gradient_are_those_of_the_formula(method):
    problem = begun(method, epochs=4)  # four epochs draw every retain row
    expected = FORMULAS[method](problem)
    slopes = torch.autograd.grad(expected, list(problem.parameters.values()))
    found = method.gradients(problem, *batches(problem))
    assert problem.noted["loss"] == pytest.approx(expected.item(), **EXACT)
    assert list(found) == list(problem.parameters)
    for own, slope in zip(found.values(), slopes, strict=True):
        assert (own - slope).norm() <= 1e-9 * slope.norm()


@pytest.mark.parametrize(("method", "plain"), [(GradDiffKL(), GradDiff()), (NPOKL(), NPO())])
def test_the_divergence_starts_at_zero_and_leaves_the_forget_loss_alone(method, plain):
    problem = task(model(), epochs=4)
    method.begin(problem)
    forget, retain = batches(problem)
    loss = method.retain_loss(problem, retain)
    # Rounding of the model's norms, inside which it computes in float32, where rows are batched otherwise.
    assert abs(loss.item()) < 1e-12
    plain.begin(problem)
    assert torch.equal(method.forget_loss(problem, forget), plain.forget_loss(problem, forget))


def test_the_divergence_keeps_the_rows_that_are_drawn_and_no_other():
    problem = task(model(), epochs=1)
    GradDiffKL().begin(problem)
    kept = sorted(int(name.removeprefix("retain.")) for name in problem.cache if name.startswith("retain."))
    assert kept == sorted(set(problem.retain_rows(0).tolist())) != list(range(R))


def test_ceu_keeps_the_only_token_of_an_answer_of_one():
    problem = begun(CEU())
    for row in FORGET_ROWS:
        first = int((problem.forget.labels[row] >= 0).nonzero()[0])
        problem.forget.labels[row, first + 1 :] = IGNORED
    terms = []
    for z, tokens in rows_logits(problem.model, problem.forget, FORGET_ROWS):
        p = z[0].softmax(0)
        others = [k for k in range(len(p)) if k != tokens[0]]
        terms.append(-(p[others] / (1 - p[tokens[0]]) * p[others].log()).sum())
    loss = CEU().forget_loss(problem, batches(problem)[0])
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), **EXACT)


def test_the_multiplier_climbs_with_what_retain_loses_once_the_warm_up_is_over():
    settings = {"lr": 1e-3, "epochs": 3, "batch_size": 3, "seed": 5}
    method = PDU(alpha=2.0, epsilon=1.0, dual_step=0.5, dual_warmup=1)
    net = model()
    log = unlearn(net, *data()[:2], method, **settings).log
    assert [row["epoch"] for row in log] == [0, 0, 1, 1, 2, 2]
    multiplier = 2.0
    for row in log:
        expected = row["forget"] + multiplier * (row["retain"] - 1)
        assert row["loss"] == pytest.approx(expected, **EXACT)
        if row["epoch"] >= 1:
            multiplier = max(0.0, multiplier + 0.5 * (row["retain"] - 1))
        assert row["dual"] == pytest.approx(multiplier, **EXACT)
    assert log[-1]["dual"] > 2 == log[1]["dual"]


def test_a_constraint_that_holds_lets_the_multiplier_fall_to_zero_and_no_further():
    method = PDU(alpha=1.0, epsilon=50.0, dual_step=1.0, dual_warmup=0)
    log = unlearn(model(), *data()[:2], method, lr=1e-4, epochs=2, batch_size=3).log
    assert [row["dual"] for row in log] == [0.0] * 4
    assert log[1]["loss"] == log[1]["forget"]


@pytest.mark.parametrize("name", ["GradDiff + KL", "NPO + KL", "CE-U", "PDU"])
def test_a_run_that_is_stopped_ends_with_the_same_bits(name, tmp_path, stop_at):
    settings = {"lr": 1e-3, "epochs": 3, "batch_size": 3, "seed": 5}
    forget, retain, _ = data()
    method = PDU(dual_warmup=0) if name == "PDU" else METHODS[name]

    def run(net, **more):
        return unlearn(net, forget, retain, method, **settings, **more)

    straight, stopped = model(), model()
    whole = run(straight)
    stop_at(2, lambda: run(stopped, checkpoint=tmp_path))
    again = model()
    assert run(again, checkpoint=tmp_path).log == whole.log
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


def test_they_lower_what_they_shall_on_a_sparse_model():
    forget, retain, _ = data()
    for name in ("GradDiff + KL", "NPO + KL", "CE-U", "PDU"):
        net = model()
        masks = sparse(net)
        masks.apply_(net)
        problem = task(net)
        METHODS[name].begin(problem)
        whole = problem.batch(problem.forget, torch.arange(len(problem.forget)))
        first = METHODS[name].forget_loss(problem, whole).item()
        unlearn(net, forget, retain, METHODS[name], lr=1e-3, update=Update(masks), epochs=3, batch_size=3)
        assert METHODS[name].forget_loss(problem, whole).item() < first
        assert masks.holds(net)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PDU(epsilon=-0.1), "^epsilon: got -0.1"),
        (lambda: PDU(dual_step=0), "^dual_step: got 0"),
        (lambda: PDU(dual_warmup=math.nan), "^dual_warmup: got nan"),
        (lambda: PDU(alpha=-1.0), "^alpha: got -1.0"),
        (lambda: NPOKL(beta=0), "^beta: got 0"),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
