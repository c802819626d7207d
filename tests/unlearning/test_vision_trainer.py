"""The loop: its updates, lockstep, work counted, stopping and resuming, bad input."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F
from vision_problems import (
    CLASSES,
    SETTINGS,
    Foreign,
    N,
    Net,
    data,
    rest,
    start,
    state,
)

from palimpsest.nets.quantised import steps
from palimpsest.training import TrainingDiverged, epoch_order
from palimpsest.unlearning.vision import (
    OEU,
    FineTune,
    NegGradPlus,
    QMul,
    RandomLabel,
    SalUn,
    qmul,
    random_label,
    salun,
    unlearn,
)
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.task import Task, cross_entropy

# The loop.


def test_a_run_is_torch_sgd_with_decay_momentum_and_a_cosine_by_epoch():
    x, y, forget = data(2)
    rates, models = [0.125, 0.03125], start([0, 1])  # exact in single precision
    unlearn(models, x, y, forget, FineTune(), lr=rates, weight_decay=0.0625, momentum=0.8, **SETTINGS)
    for k, model in enumerate(start([0, 1])):
        own = rest(forget)[k]
        optimiser = torch.optim.SGD(model.parameters(), rates[k], momentum=0.8, weight_decay=0.0625)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3)
        for epoch in range(3):
            for batch in own[epoch_order(14, k, epoch)].tensor_split(4):
                optimiser.zero_grad()
                F.cross_entropy(model.train()(x[k, batch]), y[k, batch]).backward()
                optimiser.step()
            schedule.step()
        moved = (state(model) - state(start([k])[0])).norm()
        assert (state(models[k]) - state(model)).norm() <= 1e-9 * moved


def test_quantiser_steps_have_no_weight_decay_and_stay_positive():
    x, y, forget = data(1)
    runs = []
    for decay in (0.0, 0.5):
        models = start([0], quantised=True)
        unlearn(models, x, y, forget, FineTune(), lr=1e-3, weight_decay=decay, epochs=1, batch_size=20)
        runs.append(dict(models[0].named_parameters()))
    first = dict(start([0], quantised=True)[0].named_parameters())
    for name in first:
        assert torch.equal(runs[0][name], runs[1][name]) == (name.endswith("_step") or not first[name].any()), name
    held = start([0], quantised=True)[0]
    with pytest.raises(TrainingDiverged, match=r"in epoch 1 of 1 at lr 100\.0: .* step .*_step collapsed to zero"):
        unlearn([held], x, y, forget, FineTune(), lr=100.0, epochs=1, batch_size=20)
    assert min(p.item() for p in steps(held).values()) > 0


METHODS = {
    "fine-tune": FineTune(),
    "random label": RandomLabel(),
    "Q-MUL": QMul(),
    "similar": QMul(weights=None),
    "constant": QMul(weights=0.3),
    "RL + AGR": QMul(labels="random"),
    "quirks": QMul(official_quirks=True),
    "mixed": QMul(schedule="mixed"),
    "fixed": QMul(fixed=True),
    "OEU": OEU(),
    "uniform": OEU(loss="uniform", lam=0.5),
    "projection only": OEU(loss="random-label", scope="layer"),
    "none": OEU(direction="none", keep_statistics=False),
    "pcgrad": OEU(direction="pcgrad"),
    "random": OEU(direction="random", mode="conflict"),
    "ema": OEU(against="ema"),
    "basis": OEU(against="basis"),
    "steps out": OEU(project_steps=False, against="basis"),
}


@pytest.mark.parametrize("name", METHODS)
def test_networks_together_equal_each_alone(name):
    # Double precision: its rounding, times any amplification short of ten digits, stays below a millionth of what
    # the run moves. Anything that one network hands to another moves it by percents.
    x, y, forget = data(2)
    rates, seeds = [0.02, 0.005], [3, 8]
    together = start([0, 1], quantised=True)
    report = unlearn(together, x, y, forget, METHODS[name], lr=rates, seeds=seeds, epochs=2, batch_size=4)
    for k in range(2):
        alone = start([k], quantised=True)
        own = (x[k : k + 1], y[k : k + 1], forget[k : k + 1])
        single = unlearn(alone, *own, METHODS[name], lr=rates[k], seeds=[seeds[k]], epochs=2, batch_size=4)
        moved = (state(alone[0]) - state(start([k], quantised=True)[0])).norm()
        assert (state(together[k]) - state(alone[0])).norm() <= 1e-6 * moved
        assert (single.samples_forward, single.samples_backward) == (report.samples_forward, report.samples_backward)
        assert len(single.log) == len(report.log)
        for row, own_row in zip(report.log, single.log, strict=True):
            assert row.keys() == own_row.keys()
            for key in row.keys() - {"epoch", "step"}:
                assert row[key][k] == pytest.approx(own_row[key][0], rel=1e-6, abs=1e-9)


# 20 samples, 6 of them to forget, batches of 4, two epochs.
WORK = {
    "fine-tune": (2 * 14, 2 * 14),
    "random label": (2 * 20, 2 * 20),
    "Q-MUL": (2 * (6 + 20 + 20), 2 * (20 + 20)),  # relabelling; norms; steps
    "quirks": (2 * (6 + 20 + 20), 2 * (20 + 20)),
    "similar": (2 * (6 + 20), 2 * 20),
    "RL + AGR": (2 * (20 + 20), 2 * (20 + 20)),
    "OEU": (2 * (14 + 12), 2 * (14 + 12)),  # four retain batches meet two turns of the forget set
    "ema": (2 * (14 + 12), 2 * (14 + 12)),
    "mixed": (2 * (6 + 20 + 20), 2 * (20 + 20)),
    "fixed": (6 + 2 * (20 + 20), 2 * (20 + 20)),  # labels are looked for once
}
# Two batches to forget and four to keep, or five of both together.
STEPS = dict.fromkeys(WORK, 2 * 6) | dict.fromkeys(("fine-tune", "OEU", "ema"), 2 * 4) | {"mixed": 2 * 5}


@pytest.mark.parametrize("name", WORK)
def test_samples_forward_and_backward_are_counted(name):
    x, y, forget = data(2)
    report = unlearn(start([0, 1]), x, y, forget, METHODS[name], lr=0.01, epochs=2, batch_size=4)
    assert (report.samples_forward, report.samples_backward) == WORK[name]
    assert report.steps == STEPS[name]
    assert report.seconds > 0


# 8 retain samples an epoch: two batches of four, and two of the forget set's three.
EQUAL = {
    "fine-tune": (2 * 8, 2 * 8, 2 * 2),
    "NegGrad+": (2 * 14, 2 * 14, 2 * 2),
    "OEU": (2 * 14, 2 * 14, 2 * 2),
    "random label": (2 * 14, 2 * 14, 2 * 4),
    "similar": (2 * (6 + 14), 2 * 14, 2 * 4),
    "mixed": (2 * (6 + 14 + 14), 2 * (14 + 14), 2 * 4),  # the norms too are those of the epoch's samples
}


@pytest.mark.parametrize("name", EQUAL)
def test_with_a_fixed_number_of_retain_samples_methods_do_equal_work(name):
    x, y, forget = data(2)
    method = NegGradPlus() if name == "NegGrad+" else METHODS[name]
    report = unlearn(start([0, 1]), x, y, forget, method, lr=0.01, epochs=2, batch_size=4, retain_samples=8)
    assert (report.samples_forward, report.samples_backward, report.steps) == EQUAL[name]


@pytest.mark.parametrize("method", [NegGradPlus(alpha=0.7), OEU(lam=0.5)])
def test_a_pair_without_a_forget_batch_descends_on_the_retain_batch_alone(method):
    x, y, forget = data(1)
    kept = rest(forget)
    model, share = start([0])[0], 0.7 if isinstance(method, NegGradPlus) else 1.0
    task = Task([model], x, y, forget, kept, seeds=[0], lr=torch.ones(1), epochs=1, batch_size=4, retain_samples=12)
    pairs = list(task.paired(0))
    assert [f is None for f, _ in pairs] == [False, False, True]
    walk = method.epoch(task, 0)
    for _ in range(3):  # no step is made: the network is what it was
        next(walk)
    batch = pairs[2][1][:, 0]
    found = start([0])[0].train()
    expected = torch.autograd.grad(share * F.cross_entropy(found(x[0, batch]), y[0, batch]), list(found.parameters()))
    for parameter, gradient in zip(task.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad.view_as(gradient), gradient, rtol=1e-10, atol=1e-12)


def test_all_retain_samples_are_the_run_without_a_number():
    # Methods that do not pair the two sets: bit for bit. (Those that do begin the forget set again without one.)
    x, y, forget = data(2, torch.float32)
    for name in ("fine-tune", "random label", "Q-MUL", "mixed"):
        runs = []
        for number in (None, 14):
            models = start([0, 1], True, torch.float32)
            report = unlearn(
                models, x, y, forget, METHODS[name], lr=0.01, epochs=2, batch_size=4, retain_samples=number
            )
            runs.append(([v for m in models for v in m.state_dict().values()], report.log, report.steps))
        assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True)), name
        assert runs[0][1:] == runs[1][1:]


@dataclass(frozen=True)
class Remembering(Method):
    """Keeps a tensor in channels-last memory and asks for the original networks."""

    def begin(self, task: Task) -> None:
        assert torch.equal(task.original.head.weight, task.net.head.weight)

    def epoch(self, task: Task, epoch: int):
        for batch in task.batches(task.retain, epoch):
            gradients = task.gradients(cross_entropy(task.logits(task.images(batch)), task.labels(batch)))
            task.memory["sum"] = task.memory.get("sum", 0) + gradients[0]
            task.record(epoch, pull=(task.net.head.weight - task.original.head.weight).flatten(1).norm(dim=1))
            task.descend([task.memory["sum"], *gradients[1:]])
            yield


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((n, {}) for n in ("fine-tune", "quirks", "Q-MUL", "random", "ema", "basis", "remembering", "fixed")),
        *((n, {"retain_samples": 8}) for n in ("fine-tune", "OEU", "mixed")),
    ],
)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_at, name, more):
    x, y, forget = data(2, torch.float32)
    method, runs = METHODS.get(name, Remembering()), []

    def run(folder):
        models = [m.to(memory_format=torch.channels_last) for m in start([0, 1], True, torch.float32)]
        report = unlearn(models, x, y, forget, method, lr=0.01, checkpoint=folder, epochs=2, batch_size=4, **more)
        runs.append(([v.clone() for m in models for v in m.state_dict().values()], report))

    run(None)
    for stop in (1, 2):
        stop_at(stop, lambda folder=tmp_path / str(stop): run(folder))
        run(tmp_path / str(stop))
    (expected, report), *resumed = runs
    for bits, again in resumed:
        assert all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True))
        assert again.log == report.log
        assert replace(again, seconds=0) == replace(report, seconds=0)


def test_the_checkpoint_of_another_run_is_refused_with_the_reason(tmp_path):
    x, y, forget = data(2)

    def run(models=None, x=x, y=y, forget=forget, method=METHODS["OEU"], lr=0.01, **changes):
        models = models or start([0, 1])
        unlearn(models, x, y, forget, method, lr=lr, checkpoint=tmp_path, **{**SETTINGS, **changes})

    run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    others = {
        "method": [{"method": OEU(lam=2.0)}, {"method": FineTune()}],
        "settings": [
            {"lr": [0.01, 0.02]},
            {"epochs": 4},
            {"batch_size": 5},
            {"seeds": [0, 2]},
            {"momentum": 0.5},
            {"retain_samples": 14},
        ],
        "data": [{"forget": forget.flip(1)}, {"y": (y + 1) % CLASSES}, {"x": x + 1}],
        "start": [{"models": start([0, 2])}],
        "networks": [
            {"models": [Net(0, 5).double(), Net(1, 5).double()]},
            {"models": start([0, 1], True)},
        ],
    }
    for reason, changes in others.items():
        for change in changes:
            with pytest.raises(ValueError, match=rf"checkpoint: {tmp_path} belongs to another run \({reason}: "):
                run(**change)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["fine-tune", "random label", "Q-MUL", "OEU"])
def test_a_network_of_the_readers_own_unlearns(name):
    model, (x, y, forget) = Foreign(), data(1, torch.float32)
    before = copy.deepcopy(model.state_dict())
    first = unlearn([model], x[0], y[0], forget[0], METHODS[name], lr=0.1, **SETTINGS)
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = Foreign()
    second = unlearn([again], x, y, forget, METHODS[name], lr=[0.1], seeds=[0], **SETTINGS)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert first.log == second.log


# Fixed labels.


@pytest.mark.parametrize("method", [RandomLabel(fixed=True), SalUn(fixed=True), QMul(fixed=True)])
@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_labels_are_those_of_the_first_epoch(monkeypatch, method, fixed):
    seen = []
    for module in (random_label, salun, qmul):
        inner = module.relabelled
        monkeypatch.setattr(
            module, "relabelled", lambda t, e, wrong, *w, inner=inner: seen.append(wrong) or inner(t, e, wrong, *w)
        )
    x, y, forget = data(2)
    unlearn(start([0, 1]), x, y, forget, replace(method, fixed=fixed), lr=0.1, epochs=3, batch_size=4)
    by_epoch = seen[:: len(seen) // 3]  # those of adaptive weights go to the norms first
    assert len(by_epoch) == 3
    assert all(torch.equal(wrong, seen[0]) == fixed for wrong in by_epoch[1:])
    assert not any((wrong == torch.gather(y, 1, forget).T).any() for wrong in seen)
    # The first epoch is that of labels drawn anew.
    unlearn(start([0, 1]), x, y, forget, replace(method, fixed=not fixed), lr=0.1, epochs=1, batch_size=4)
    assert torch.equal(seen[-1], seen[0])


# Bad input.


def test_bad_input_is_refused_by_name_and_changes_nothing():
    x, y, forget = data(2)
    models = start([0, 1])
    before = [state(m) for m in models]

    def refused(match, models=models, x=x, y=y, forget=forget, lr=0.01, **changes):
        with pytest.raises(ValueError, match=match):
            unlearn(models, x, y, forget, FineTune(), lr=lr, **{**SETTINGS, **changes})

    refused(r"forget: got indices in 15 \.\. 20, want 0 \.\. 19", forget=torch.arange(15, 21).repeat(2, 1))
    refused(r"forget: got indices in -1 \.\. 4", forget=torch.arange(-1, 5).repeat(2, 1))
    refused("forget: got an index twice", forget=torch.tensor([[1, 2, 3], [4, 5, 4]]))
    for wrong in (forget[:, :0], forget[:, :1], forget.double(), forget > 3):
        refused(r"forget: got .*, want int64 \[2, F\] with 2 to 18 of 20 samples", forget=wrong)
    refused("at least two must stay", forget=torch.arange(N).repeat(2, 1))
    refused("at least two must stay", forget=torch.arange(N - 1).repeat(2, 1))
    refused(r"y: got labels in 0 \.\. 4, want 0 \.\. 3", y=y.clone().index_fill_(1, torch.tensor(0), CLASSES))
    refused(r"y: got labels in -1 \.\. 3, want 0 \.\. 3", y=y.clone().index_fill_(1, torch.tensor(0), -1))
    refused("y: got torch.float64, want int64", y=y.double())
    for bad in (0.0, -0.1, math.nan, math.inf, [0.1, math.nan], [0.1, 0.0], "0.1", None, [0.1] * 3, [0.1], True):
        refused("lr: got ", lr=bad)
    wrong_counts = {"epochs": (0, -1, 1.5, True), "batch_size": (0, 1, 4.0), "retain_samples": (0, 1, 4.0, True)}
    refused("retain_samples: got 15, want at most the 14 kept", retain_samples=15)
    for name, values in wrong_counts.items():
        for value in values:
            refused(f"{name}: got {value!r}, want an integer of at least", **{name: value})
    for name in ("momentum", "weight_decay"):
        for value in (-0.1, math.nan, math.inf, "0", None):
            refused(f"{name}: got {value!r}, want a finite number of at least 0", **{name: value})
    shapes = "models, x, y, forget, seeds: got "
    refused(shapes + "1 models", models=models[:1])
    refused(shapes + "0 models", models=[])
    refused(shapes, x=x[:1])
    refused(shapes, x=x[:, :-1])
    refused(shapes, y=y[:, :-1])
    refused(shapes, forget=forget[:1])
    refused(shapes + ".*3 seeds", seeds=[0, 1, 2])
    refused("x: got NaN or infinite", x=x / 0)
    assert all(torch.equal(state(m), b) for m, b in zip(models, before, strict=True))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda n=n: OEU(**{n: "other"}), f"^{n}: got 'other'") for n in ("loss", "direction", "mode", "scope")),
        (lambda: OEU(against="other"), "^against: got 'other'"),
        *((lambda v=v: OEU(lam=v), "^lam: got ") for v in (0, -1.0, math.nan, math.inf, "1", None)),
        (lambda: QMul(labels="wrong"), "^labels: got 'wrong'"),
        (lambda: QMul(schedule="other"), "^schedule: got 'other'"),
        (lambda: QMul(official_quirks=("order", "other")), r"^official_quirks: got \('order', 'other'\), want True"),
        *((lambda v=v: QMul(weights=v), "^weights: got ") for v in (0.0, 1.0, -0.5, math.nan, 1, "other")),
    ],
)
def test_hyperparameters_that_cannot_be_meant_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("name", ["fine-tune", "random label", "Q-MUL", "OEU", "uniform", "ema"])
def test_overflow_is_divergence_and_keeps_the_last_good_checkpoint(tmp_path, name, quantised):
    x, y, forget = data(2, torch.float32)
    models = start([0, 1], quantised, torch.float32)
    with pytest.raises(
        TrainingDiverged, match=r"^in epoch 1 of 3 at lr 1e\+37: .* not finite; a smaller lr is needed"
    ):
        unlearn(models, x, y, forget, METHODS[name], lr=1e37, checkpoint=tmp_path, **SETTINGS)
    assert list(tmp_path.iterdir()) == []
