"""The loop: its updates, lockstep, work counted, stopping and resuming, bad input."""

import copy
import math
from dataclasses import dataclass

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
from palimpsest.unlearning.vision import OEU, FineTune, QMul, RandomLabel, unlearn
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
}


@pytest.mark.parametrize("name", WORK)
def test_samples_forward_and_backward_are_counted(name):
    x, y, forget = data(2)
    report = unlearn(start([0, 1]), x, y, forget, METHODS[name], lr=0.01, epochs=2, batch_size=4)
    assert (report.samples_forward, report.samples_backward) == WORK[name]
    assert report.seconds > 0


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


@pytest.mark.parametrize("name", ["fine-tune", "quirks", "Q-MUL", "random", "ema", "basis", "remembering"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_at, name):
    x, y, forget = data(2, torch.float32)
    method, runs = METHODS.get(name, Remembering()), []

    def run(folder):
        models = [m.to(memory_format=torch.channels_last) for m in start([0, 1], True, torch.float32)]
        report = unlearn(models, x, y, forget, method, lr=0.01, checkpoint=folder, epochs=2, batch_size=4)
        runs.append(([v.clone() for m in models for v in m.state_dict().values()], report))

    run(None)
    for stop in (1, 2):
        stop_at(stop, lambda folder=tmp_path / str(stop): run(folder))
        run(tmp_path / str(stop))
    (expected, report), *resumed = runs
    for bits, again in resumed:
        assert all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True))
        assert again.log == report.log
        assert (again.samples_forward, again.samples_backward) == (report.samples_forward, report.samples_backward)


def test_the_checkpoint_of_another_run_is_refused_with_the_reason(tmp_path):
    x, y, forget = data(2)

    def run(models=None, x=x, y=y, forget=forget, method=METHODS["OEU"], lr=0.01, **changes):
        models = models or start([0, 1])
        unlearn(models, x, y, forget, method, lr=lr, checkpoint=tmp_path, **{**SETTINGS, **changes})

    run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    others = {
        "method": [{"method": OEU(lam=2.0)}, {"method": FineTune()}],
        "settings": [{"lr": [0.01, 0.02]}, {"epochs": 4}, {"batch_size": 5}, {"seeds": [0, 2]}, {"momentum": 0.5}],
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
    for name, values in {"epochs": (0, -1, 1.5, True), "batch_size": (0, 1, 4.0)}.items():
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
