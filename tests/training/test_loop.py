"""The loop itself, on a run of two weights: its order, what it keeps, what it puts back."""

import json
import math

import pytest
import torch

from palimpsest.training import TrainingDiverged, checkpoints
from palimpsest.training.loop import Run, descend

STEPS, EVERY = 7, 3


class Stopped(Exception):
    pass


class Walk:
    """A run whose gradients depend on the step; it writes down everything that happens, in order."""

    def __init__(self, folder=None, stop=None, end=None, optimiser="sgd", gradient=float):
        self.weights = {"w": torch.tensor([1.0, -2.0]), "idle": torch.ones(1)}
        make = {"sgd": lambda p: torch.optim.SGD(p, momentum=0.9), "adamw": torch.optim.AdamW}[optimiser]
        self.optimiser = make(self.weights.values())
        self.events, self.stop, self.end, self.gradient = [], stop, end, gradient
        self.run = Run(folder, lambda: {"name": "walk"})
        self.log = self.run.values.setdefault("log", [])
        self.run.extra.setdefault("sum", torch.zeros(2))
        self.run.train(
            self.epoch,
            self.weights,
            self.optimiser,
            steps=STEPS,
            every=EVERY,
            lr=0.5,
            rate=lambda step: 0.5 / (1 + step),
            after=self.after,
        )

    def epoch(self, number):
        for step in range(number * EVERY, min((number + 1) * EVERY, STEPS)):
            yield
            self.events.append((step, self.optimiser.param_groups[0]["lr"]))
            self.weights["w"].grad = torch.tensor([self.gradient(step + 1), -1.0])
            self.optimiser.step()
            self.run.extra["sum"] = self.run.extra["sum"] + self.weights["w"]
        self.log.append(number)
        self.events.append(f"epoch {number} ends")

    def after(self, done):
        self.events.append(f"after {done}")
        if done == self.stop:
            raise Stopped
        return done == self.end


def test_the_order_of_a_run():
    walk = Walk()
    assert walk.events == [
        *((step, 0.5 / (1 + step)) for step in range(3)), "epoch 0 ends", "after 1",
        *((step, 0.5 / (1 + step)) for step in range(3, 6)), "epoch 1 ends", "after 2",
        (6, 0.5 / 7), "epoch 2 ends", "after 3",
    ]  # fmt: skip
    assert walk.run.done == 3


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_goes_on_to_the_same_bits_and_repeats_nothing(tmp_path, stop, optimiser):
    straight = Walk(optimiser=optimiser)
    with pytest.raises(Stopped):
        Walk(tmp_path, stop, optimiser=optimiser)
    resumed = Walk(tmp_path, optimiser=optimiser)
    assert torch.equal(resumed.weights["w"], straight.weights["w"])
    assert torch.equal(resumed.run.extra["sum"], straight.run.extra["sum"])
    assert resumed.log == straight.log == [0, 1, 2]
    assert resumed.events == straight.events[straight.events.index(f"after {stop}") + 1 :]


def test_a_true_value_of_after_ends_the_run(tmp_path):
    assert Walk(tmp_path, end=2).events[-1] == "after 2"
    assert json.loads((tmp_path / "state.json").read_text())["epoch"] == 2


def test_a_checkpoint_names_tensors_by_what_they_are(tmp_path):
    for optimiser, kinds in (("sgd", ["momentum_buffer"]), ("adamw", ["exp_avg", "exp_avg_sq", "step"])):
        Walk(tmp_path / optimiser, optimiser=optimiser)
        names = checkpoints.load(tmp_path / optimiser, {})[1]
        assert sorted(names) == sorted(["model.w", "model.idle", "extra.sum", *(f"{kind}.w" for kind in kinds)])


def test_what_is_packed_is_put_back_in_the_layout_of_its_tensor():
    def fresh():
        model = {"conv": torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last), "scale": torch.tensor(0.0)}
        return model, torch.optim.AdamW(model.values())

    model, optimiser = fresh()
    for tensor in model.values():
        tensor.grad = torch.arange(1.0, 1 + tensor.numel()).view(tensor.shape)
    optimiser.step()
    extra = {"a.b": torch.tensor([3])}
    packed = {name: value.clone() for name, value in checkpoints.pack(model, optimiser, extra).items()}
    other, again = fresh()
    checkpoints.restore(packed, other, again)
    assert checkpoints.extras(packed).keys() == {"a.b"}
    for name, tensor in model.items():
        assert torch.equal(other[name], tensor)
        own, restored = optimiser.state[tensor], again.state[other[name]]
        assert own.keys() == restored.keys()
        assert all(torch.equal(own[kind], restored[kind]) for kind in own)
        assert all(own[kind].stride() == restored[kind].stride() for kind in own)


def test_a_lost_weight_is_named_with_its_epoch_and_is_not_saved(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"^in epoch 2 of 3 at lr 0\.5: a weight is not finite; a smaller lr"):
        Walk(tmp_path, gradient=lambda step: math.inf if step == 5 else 1.0)
    assert [file.name for file in tmp_path.glob("epoch-*")] == ["epoch-0001.safetensors"]


def test_another_runs_folder_is_refused_before_its_user_does_anything(tmp_path):
    Walk(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} belongs to another run \(name: walk, here march\)"):
        Run(tmp_path, lambda: {"name": "march"})


def test_descend_clips_and_moves_nothing_when_the_gradient_is_lost():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimiser = torch.optim.SGD([weight], 1.0)
    assert descend((weight**2).sum() / 2, {"w": weight}, optimiser) == 12.5
    # The gradient (3, 4) of norm 5 comes down to norm 1.
    torch.testing.assert_close(weight.detach(), torch.tensor([2.4, 3.2]), rtol=1e-5, atol=0)
    before = weight.detach().clone()
    for factor in (math.nan, math.inf):
        with pytest.raises(TrainingDiverged, match="the norm of its gradient"):
            descend((weight * factor).sum(), {"w": weight}, optimiser)
        assert torch.equal(weight, before)
