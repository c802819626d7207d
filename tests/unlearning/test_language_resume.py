"""The loop of language models: a run that stops and goes on, ends early, or diverges."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from language_problems import SETTINGS, F, R, data, model, same_bits, sequences, sparse, state

from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.language import METHODS, NPO, GradDiff, LoraSettings, Update, unlearn

# Stopping and resuming.


def cases():
    yield "NPO", {}
    yield "RMU", {}
    yield "IdkDPO", {}
    yield "UNDIAL", {}
    yield "task vector", {}
    yield "NPO + SAM", {}
    yield "SAU", {"masks": True}
    yield "GradDiff", {"masks": True, "scaling": "boost"}
    yield "NPO", {"masks": True, "lora": LoraSettings(2, 4)}


@pytest.mark.parametrize(("name", "how"), list(cases()), ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_at, name, how):
    forget, retain, idk = data()
    shown = []

    def run(folder):
        net = model(dtype=torch.float32)
        masks = sparse(net) if how.get("masks") else None
        seen = []
        report = unlearn(
            net, forget, retain, METHODS[name], update=Update(masks, how.get("scaling", "none")), idk=idk,
            lora=how.get("lora"), lr=1e-3, epochs=2, batch_size=3, checkpoint=folder,
            after_epoch=lambda epoch: seen.append(epoch) or True,
        )  # fmt: skip
        shown.append(seen)
        return state(net), report

    expected, report = run(None)
    for stop in (1, 2):
        stop_at(stop, lambda folder=tmp_path / str(stop): run(folder))
        end, again = run(tmp_path / str(stop))
        assert all(same_bits(end[key], value) for key, value in expected.items())
        assert again.log == report.log
        assert (again.tokens_forward, again.tokens_backward) == (report.tokens_forward, report.tokens_backward)
    assert shown == [[1, 2], [2], []]


def test_a_run_that_ended_early_stays_ended(tmp_path):
    forget, retain, _ = data()
    ends, calls = [], []

    def look(epoch):
        calls.append(epoch)
        return epoch < 2

    for _ in range(2):
        net = model(dtype=torch.float32)
        unlearn(net, forget, retain, NPO(), after_epoch=look, checkpoint=tmp_path, **{**SETTINGS, "epochs": 4})
        ends.append(state(net))
    assert calls == [1, 2]
    assert all(same_bits(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_checkpoint_of_another_run_is_refused_with_the_reason(tmp_path):
    forget, retain, idk = data()

    def run(net=None, forget=forget, retain=retain, method=METHODS["IdkDPO"], update=None, idk=idk, **changes):
        net = net or model()
        update = Update(sparse(net)) if update is None else update(net)
        unlearn(net, forget, retain, method, update=update, idk=idk, checkpoint=tmp_path, **{**SETTINGS, **changes})

    run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    others = {
        "method": [{"method": replace(METHODS["IdkDPO"], beta=0.2)}, {"method": METHODS["DPO"]}],
        "settings": [{"lr": 2e-3}, {"epochs": 3}, {"batch_size": 2}, {"seed": 1}, {"weight_decay": 0.0},
                     {"warmup_epochs": 0}],
        "data": [{"forget": sequences(F, 9)}, {"retain": sequences(R, 9)}, {"idk": sequences(F, 9)}],
        "start": [{"net": model(3)}],
        "update": [{"update": lambda net: Update(sparse(net, 0.6))}, {"update": lambda net: Update()},
                   {"update": lambda net: Update(sparse(net), "boost")},
                   {"update": lambda net: Update(sparse(net), top=1)}],
        "lora": [{"lora": LoraSettings()}],
    }  # fmt: skip
    for reason, changes in others.items():
        for change in changes:
            with pytest.raises(ValueError, match=rf"checkpoint: {tmp_path} belongs to another run \({reason}: "):
                run(**change)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@dataclass(frozen=True)
class Breaking(GradDiff):
    """Its loss is `value` from the third step on."""

    value: float = math.nan

    def forget_loss(self, task, batch):
        return super().forget_loss(task, batch) * (1 if len(task.log) < 2 else self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("lora", [None, LoraSettings(2, 4)])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, value, lora):
    forget, retain, _ = data()
    settings = {**SETTINGS, "lora": lora, "checkpoint": tmp_path}
    net = model(dtype=torch.float32)
    with pytest.raises(
        TrainingDiverged, match=r"^in epoch 2 of 2 at lr 0\.001: the .* is .*; a smaller lr is needed"
    ):
        unlearn(net, forget, retain, Breaking(value=value), **settings)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-0001.safetensors", "state.json"]
    assert type(net.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert all(p.isfinite().all() for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", ["NPO", "GradDiff", "UNDIAL", "NPO + SAM", "RMU", "SatImp"])
def test_a_step_size_that_is_far_too_large_is_divergence(tmp_path, name):
    net, (forget, retain, idk) = model(dtype=torch.float32), data()
    with pytest.raises(TrainingDiverged, match=r"^in epoch 1 of 2 at lr 1e\+30: "):
        unlearn(net, forget, retain, METHODS[name], idk=idk, checkpoint=tmp_path, **{**SETTINGS, "lr": 1e30})
    assert list(tmp_path.iterdir()) == []
