"""Each objective against its formula, written out in double precision over whole logits."""

import math

import pytest
import torch
from language_problems import F as FORGET
from language_problems import R, begun, model, rows_logprobs, sequences, sparse, state, task
from torch.nn import functional as F

from palimpsest.unlearning.language import (
    DPO,
    METHODS,
    NPO,
    RMU,
    WGA,
    GradAscent,
    GradDiff,
    IdkDPO,
    SamNPO,
    SatImp,
    SimNPO,
    TaskVector,
    Undial,
    Update,
)
from palimpsest.unlearning.language.update import movable

# Double precision: its rounding, times any amplification short of six digits, stays below 1e-9 of a value. Llama's
# norms round to single precision inside, but from inputs that agree to the last digits, and so alike.
EXACT = {"rel": 1e-9, "abs": 1e-12}
FORGET_ROWS, RETAIN_ROWS = [4, 1, 3], [7, 0, 2]


def token_mean(logs):
    return -torch.cat(logs).mean()


def logsigmoid(x):
    return -torch.log1p(torch.exp(-x))


def means(rows):
    return [row.mean()[None] for row in rows]


def npo(now, before, beta):
    gaps = torch.stack([-n.sum() + b.sum() for n, b in zip(now, before, strict=True)])
    return -2 / beta * logsigmoid(beta * gaps).mean()


def simnpo(now, beta, delta):
    means = torch.stack([-n.mean() for n in now])
    return -2 / beta * logsigmoid(beta * (means - delta)).mean()


def dpo(now, before, now_idk, before_idk, beta):
    rows = zip(now, before, now_idk, before_idk, strict=True)
    margins = [(b.sum() - a.sum()) - (d.sum() - c.sum()) for a, b, c, d in rows]
    return -2 / beta * logsigmoid(beta * torch.stack(margins)).mean()


FORMULAS = {
    GradAscent(): (lambda v: -token_mean(v["now"]), 1, 0),
    GradDiff(gamma=0.5, alpha=2.0): (lambda v: -token_mean(v["now"]), 0.5, 2),
    NPO(beta=0.3): (lambda v: npo(v["now"], v["before"], 0.3), 1, 1),
    NPO(beta=0.8, per_token=True): (lambda v: npo(*(means(v[when]) for when in ("now", "before")), 0.8), 1, 1),
    SimNPO(delta=0.5): (lambda v: simnpo(v["now"], 4.5, 0.5), 0.125, 1),
    DPO(beta=0.2): (lambda v: dpo(v["now"], v["before"], v["now idk"], v["before idk"], 0.2), 1, 0),
    IdkDPO(alpha=0.7): (lambda v: dpo(v["now"], v["before"], v["now idk"], v["before idk"], 0.1), 1, 0.7),
    WGA(beta=0.5): (lambda v: torch.cat([n.detach().exp() ** 0.5 * n for n in v["now"]]).mean(), 1, 1),
    SatImp(beta1=2.0, beta2=1.5): (
        lambda v: torch.cat(
            [n.detach().exp() ** 2 * (1 - n.detach().exp()) ** 1.5 * n for n in v["now"]],
        ).mean(),
        0.1,
        1,
    ),
    TaskVector(): (lambda v: token_mean(v["now"]), 1, 0),
}


@pytest.mark.parametrize("method", FORMULAS, ids=lambda method: type(method).__name__)
def test_a_loss_and_its_gradient_are_those_of_the_formula(method):
    formula, gamma, alpha = FORMULAS[method]
    problem, given = begun(method), model()
    with torch.no_grad():
        values = {
            "before": rows_logprobs(given, problem.forget, FORGET_ROWS),
            "before idk": rows_logprobs(given, problem.idk, FORGET_ROWS),
        }
    values["now"] = rows_logprobs(problem.model, problem.forget, FORGET_ROWS)
    values["now idk"] = rows_logprobs(problem.model, problem.idk, FORGET_ROWS)
    expected = gamma * formula(values)
    if alpha:
        expected = expected + alpha * token_mean(rows_logprobs(problem.model, problem.retain, RETAIN_ROWS))
    slopes = torch.autograd.grad(expected, list(problem.parameters.values()))
    forget = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    retain = problem.batch(problem.retain, torch.tensor(RETAIN_ROWS))
    loss = method.loss(problem, forget, retain)
    assert loss.item() == pytest.approx(expected.item(), **EXACT)
    again = method.gradients(problem, forget, retain)
    assert list(again) == list(problem.parameters)
    for found, slope in zip(again.values(), slopes, strict=True):
        assert (found - slope).norm() <= 1e-9 * slope.norm()
    row = problem.noted
    assert row["loss"] == pytest.approx(expected.item(), **EXACT)
    assert ("retain" in row) == bool(alpha)


def test_npo_starts_at_its_closed_value_with_the_gradient_of_ascent():
    for beta in (0.1, 2.0):
        method, problem = NPO(beta=beta), task(model())
        method.begin(problem)
        batch = problem.batch(problem.forget, torch.arange(FORGET))
        loss = method.forget_loss(problem, batch)
        assert loss.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
        ascent = sum(logs.sum() for logs in rows_logprobs(problem.model, problem.forget, range(FORGET))) / FORGET
        slopes = torch.autograd.grad(ascent, list(problem.parameters.values()))
        for found, slope in zip(problem.gradients(loss).values(), slopes, strict=True):
            assert (found - slope).norm() <= 1e-9 * slope.norm()


def test_the_references_are_those_of_the_model_as_it_was_given():
    for method in (NPO(), IdkDPO()):
        problem, given = begun(method), model()
        with torch.no_grad():
            for name in ("forget", "idk") if method.needs_idk else ("forget",):
                own = torch.stack([v.sum() for v in rows_logprobs(given, getattr(problem, name), range(FORGET))])
                assert torch.allclose(problem.cache[name], own, rtol=1e-9, atol=0)


def test_idk_dpo_pairs_each_answer_with_its_own_refusal():
    method, problem = IdkDPO(), begun(IdkDPO())
    own = problem.batch(problem.forget, torch.tensor([3]))
    right = method.forget_loss(problem, own).item()
    for row in range(FORGET):
        problem.idk = sequences(FORGET, 3)
        problem.idk.ids[row, 1:4] = 5
        assert (method.forget_loss(problem, own).item() != right) == (row == 3)


def test_undial_learns_from_the_given_models_logits_with_the_answer_lowered():
    method = Undial(beta=3.0, alpha=0.5)
    problem, given = begun(method), model()
    parts = []
    for row in FORGET_ROWS:
        counted = (problem.forget.labels[row] >= 0).nonzero().flatten()
        ids = problem.forget.ids[row, : int(counted.max()) + 1][None]
        labels = problem.forget.labels[row, counted]
        with torch.no_grad():
            teacher = given(input_ids=ids).logits[0, counted]
        teacher[range(len(labels)), labels] -= 3.0
        student = problem.model(input_ids=ids).logits[0, counted].log_softmax(-1)
        parts.append(-(teacher.softmax(-1) * student).sum(1))
    retained = token_mean(rows_logprobs(problem.model, problem.retain, RETAIN_ROWS))
    expected = torch.cat(parts).mean() + 0.5 * retained
    forget = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    loss = method.loss(problem, forget, problem.batch(problem.retain, torch.tensor(RETAIN_ROWS)))
    assert loss.item() == pytest.approx(expected.item(), **EXACT)
    slopes = torch.autograd.grad(expected, list(problem.parameters.values()))
    for found, slope in zip(problem.gradients(loss).values(), slopes, strict=True):
        assert (found - slope).norm() <= 1e-9 * slope.norm()


def activations(net, encoded, rows, layer):
    """What decoder layer `layer` writes at answer tokens; `hidden_states` holds the embeddings first, and its last
    entry is normalised, so the last layer's is what the final norm sees."""
    found = []
    for row in rows:
        counted = (encoded.labels[row] >= 0).nonzero().flatten()
        ids = encoded.ids[row, : int(counted.max()) + 1][None]
        seen = []
        hook = net.model.norm.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        states = [*net.model(input_ids=ids, output_hidden_states=True).hidden_states[:-1], *seen]
        hook.remove()
        found.append(states[layer + 1][0, counted])
    return found


@pytest.mark.parametrize("layer", [0, 1])
def test_rmu_steers_a_layer_and_holds_it_to_the_frozen_models_activations(layer):
    method = RMU(steering=3.0, alpha=0.8, layer=layer)
    problem, given = begun(method, epochs=4), model()  # four epochs draw every retain row
    target = problem.cache["target"]
    assert target.norm().item() == pytest.approx(3.0)
    assert (target >= 0).all()
    assert torch.equal(target, begun(method).cache["target"])
    steered = [(h - target).square().mean() for h in activations(problem.model, problem.forget, FORGET_ROWS, layer)]
    with torch.no_grad():
        frozen = activations(given, problem.retain, RETAIN_ROWS, layer)
    now = activations(problem.model, problem.retain, RETAIN_ROWS, layer)
    held = [(h - f).square().mean() for h, f in zip(now, frozen, strict=True)]
    expected = torch.stack(steered).mean() + 0.8 * torch.stack(held).mean()
    forget = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    loss = method.loss(problem, forget, problem.batch(problem.retain, torch.tensor(RETAIN_ROWS)))
    assert loss.item() == pytest.approx(expected.item(), **EXACT)
    reached = problem.gradients(loss)
    assert any(name.startswith("model.layers.1.") for name in reached) == (layer == 1)
    assert "model.norm.weight" not in reached


@pytest.mark.parametrize(
    ("layer", "moving", "names"),
    [
        ("model.layers.1.mlp", r".*\.(0|1)\.mlp\.down_proj\.weight", ["layers.0.mlp.down", "layers.1.mlp.down"]),
        (
            "model.layers.1.self_attn",
            ".*[vq]_proj.*",
            [f"{n}.self_attn.{one}_" for n in (0, 1) for one in "qv"],
        ),
    ],
)
def test_rmu_steers_the_module_and_moves_the_parameters_that_are_named(layer, moving, names):
    method, net = RMU(steering=3.0, alpha=0.8, layer=layer), model()
    moved = movable(net, Update(moving=moving))
    assert [name for name in moved if any(part in name for part in names)] == list(moved)
    assert len(moved) == len(names)
    problem, given = task(net, epochs=4), model()
    problem.parameters = moved
    method.begin(problem)
    with torch.no_grad():
        frozen = outputs(given, problem.retain, RETAIN_ROWS, layer)
    target = problem.cache["target"]
    with torch.no_grad():  # else the retain loss and its gradient are 0
        for parameter in moved.values():
            parameter.mul_(1.5)
    steered, now = outputs(net, problem.forget, FORGET_ROWS, layer), outputs(net, problem.retain, RETAIN_ROWS, layer)
    expected = sum((h - target).square().mean() for h in steered) / len(steered)
    expected = expected + 0.8 * sum((h - f).square().mean() for h, f in zip(now, frozen, strict=True)) / len(now)
    slopes = torch.autograd.grad(expected, list(moved.values()))
    forget = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    loss = method.loss(problem, forget, problem.batch(problem.retain, torch.tensor(RETAIN_ROWS)))
    assert loss.item() == pytest.approx(expected.item(), **EXACT)
    reached = problem.gradients(loss)
    assert list(reached) == list(moved)
    for found, slope in zip(reached.values(), slopes, strict=True):
        assert (found - slope).norm() <= 1e-9 * slope.norm()


def outputs(net, encoded, rows, at):
    """What the module `at` gives at answer tokens, row by row."""
    seen = []
    hook = net.get_submodule(at).register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    for row in rows:
        net(input_ids=encoded.ids[row][None])
    hook.remove()
    return [one[0, encoded.labels[row] >= 0] for one, row in zip(seen, rows, strict=True)]


def test_rmu_keeps_what_the_frozen_model_writes_for_the_rows_that_are_drawn():
    method, net = RMU(layer=1), model()
    problem = task(net, epochs=1)
    method.begin(problem)
    drawn = problem.retain_rows(0).tolist()
    kept = sorted(int(name.removeprefix("written.")) for name in problem.cache if name.startswith("written."))
    assert kept == sorted(set(drawn)) != list(range(R))
    with torch.no_grad():
        for row, own in zip(kept, activations(net, problem.retain, kept, 1), strict=True):
            assert torch.allclose(problem.cache[f"written.{row}"], own, rtol=1e-9, atol=1e-12)


def test_rmu_takes_the_same_depth_or_refuses_a_layer_that_is_not_there():
    method, problem = RMU(), begun(RMU())
    batch = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    written = method.activations(problem, batch)[batch.counted]
    assert torch.allclose(written, torch.cat(activations(problem.model, problem.forget, FORGET_ROWS, 0)), rtol=1e-9)
    for layer in (2, -1):
        with pytest.raises(ValueError, match=f"layer: got {layer}, want 0 to 1"):
            RMU(layer=layer).begin(task(model()))
    for layer, message in (
        ("model.layers.7", "got 'model.layers.7', want the name of a module, such as 'model.layers.1'"),
        ("model.layers", r"'model.layers' writes NoneType, want \[1, 1, D\]"),
        (True, "got True, want a layer's number, a module's name, or None"),
    ):
        with pytest.raises(ValueError, match=f"layer: {message}"):
            RMU(layer=layer).begin(task(model()))


def test_sam_descends_the_forget_gradient_of_the_worst_point_nearby():
    masks = sparse(model())
    method, rho = SamNPO(rho=0.05, gamma=2.0, alpha=0.5), 0.05
    problem = begun(method, masks)
    before = state(problem.model)
    forget = problem.batch(problem.forget, torch.tensor(FORGET_ROWS))
    retain = problem.batch(problem.retain, torch.tensor(RETAIN_ROWS))
    found = method.gradients(problem, forget, retain)
    assert all(torch.equal(p, before[name]) for name, p in problem.parameters.items())

    def slopes(loss):
        return torch.autograd.grad(loss, list(problem.parameters.values()))

    ascent = slopes(NPO().forget_loss(problem, forget))
    ascent = [
        torch.where(masks.kept[name], g, 0) if name in masks.kept else g
        for name, g in zip(problem.parameters, ascent, strict=True)
    ]
    norm = torch.cat([g.flatten() for g in ascent]).norm()
    flat = slopes(0.5 * NPO().retain_loss(problem, retain))
    with torch.no_grad():
        for p, g in zip(problem.parameters.values(), ascent, strict=True):
            p.add_(rho * g / norm)
    sharp = slopes(2.0 * NPO().forget_loss(problem, forget))
    for name, a, b in zip(problem.parameters, sharp, flat, strict=True):
        assert (found[name] - a - b).norm() <= 1e-9 * (a + b).norm()


def test_a_task_vector_is_negated():
    method, net = TaskVector(scale=0.5), model()
    problem, start = task(net), state(net)
    method.begin(problem)
    with torch.no_grad():
        for p in problem.parameters.values():
            p.add_(0.25)
    method.finish(problem)
    for name, p in problem.parameters.items():
        assert torch.allclose(p, start[name] - 0.125, rtol=0, atol=1e-12)


def test_registry_and_defaults():
    assert list(METHODS) == [
        "GradAscent", "GradDiff", "GradDiff + KL", "NPO", "NPO + KL", "SimNPO", "DPO", "IdkDPO", "RMU", "UNDIAL",
        "WGA", "SatImp", "CE-U", "PDU", "task vector", "NPO + SAM", "SAU",
    ]  # fmt: skip
    assert METHODS["SimNPO"] == SimNPO(gamma=0.125, alpha=1.0, beta=4.5, delta=0.0)
    assert METHODS["SatImp"] == SatImp(gamma=0.1, alpha=1.0, beta1=5.0, beta2=1.0)
    assert METHODS["UNDIAL"] == Undial(gamma=1.0, alpha=0.0, beta=10.0)
    assert METHODS["RMU"] == RMU(gamma=1.0, alpha=1.0, steering=2.0)
    assert {METHODS[name].beta for name in ("NPO", "DPO", "IdkDPO", "SAU", "NPO + SAM")} == {0.1}
    assert [METHODS[name].alpha for name in ("DPO", "IdkDPO", "GradAscent", "GradDiff")] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda v=v: NPO(beta=v), "^beta: got ") for v in (0, -1.0, math.nan, math.inf, "1", True)),
        *((lambda v=v: GradDiff(gamma=v), "^gamma: got ") for v in (0, -1.0, math.nan)),
        *((lambda v=v: GradDiff(alpha=v), "^alpha: got ") for v in (-1.0, math.inf, None)),
        (lambda: SimNPO(delta=math.nan), "^delta: got nan"),
        (lambda: SamNPO(rho=0), "^rho: got 0"),
        (lambda: RMU(steering=0.0), "^steering: got 0.0"),
        (lambda: RMU(layer=1.5), "^layer: got 1.5"),
        (lambda: SatImp(beta2=0), "^beta2: got 0"),
        (lambda: TaskVector(scale=-1), "^scale: got -1"),
        (lambda: Undial(beta=0), "^beta: got 0"),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_certain_token_costs_nothing_and_has_no_gradient_under_satimp():
    """p = 1 to rounding: 1 − p must be 0 and not a rounding error of the wrong sign, which a power makes NaN."""
    problem = task(model())
    with torch.no_grad():
        problem.parameters["model.norm.weight"].mul_(300)
    batch = problem.batch(problem.forget, torch.tensor([0]))
    predicted = problem.model(input_ids=batch.encoded.ids).logits.argmax(-1)
    batch.encoded.labels[batch.counted] = predicted[batch.counted]
    assert F.softmax(problem.model(input_ids=batch.encoded.ids).logits, -1).amax() == 1
    assert SatImp(beta2=0.5).forget_loss(problem, batch).isfinite()


def test_sequences_of_different_length_have_different_answers():
    counts = [(sequences(6, 1).labels[row] >= 0).sum().item() for row in range(6)]
    assert len(set(counts)) > 2  # else a mean over tokens and one over sequences could not be told apart
