"""Adapters: what is trained is what is merged, pruned weights keep their bits, and the model is left without them."""

import pytest
import torch
from language_problems import SETTINGS, data, model, same_bits, sparse, state
from torch import nn

from palimpsest.unlearning.language import NPO, LoraSettings, TaskVector, Update, unlearn

LORA = LoraSettings(rank=2, alpha=6.0)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_trained_is_what_is_merged(masked):
    net, (forget, retain, _) = model(), data()
    masks, start, seen = sparse(net) if masked else None, state(net), []

    def look(_):
        with torch.no_grad():
            seen.append(net(input_ids=forget.ids).logits)
        return True

    unlearn(net, forget, retain, NPO(), update=Update(masks), lora=LORA, after_epoch=look, **SETTINGS)
    with torch.no_grad():
        after = net(input_ids=forget.ids).logits
    # Merging adds in another order: rounding of double precision only.
    assert torch.allclose(seen[-1], after, rtol=0, atol=1e-9)
    assert (seen[0] - seen[-1]).abs().max() > 1e-4
    assert state(net).keys() == start.keys()
    assert not hasattr(net, "peft_config")
    for name, p in net.named_parameters():
        assert p.requires_grad
        change = p.detach() - start[name]
        if "proj" not in name:
            assert not change.any()
            continue
        assert type(net.get_submodule(name.removesuffix(".weight"))) is nn.Linear
        if masked:
            kept = masks.kept[name]
            assert same_bits(p.detach()[~kept], start[name][~kept])
            assert (change[kept] != 0).float().mean() > 0.9
        else:
            assert torch.linalg.matrix_rank(change, atol=1e-12) == 2


def test_the_first_update_of_the_adapters_is_adams():
    """B starts at 0, so its first step is ± lr, and what is merged is (alpha / rank) B A with A as drawn."""
    forget, retain, _ = data()
    settings = {"lr": 0.01, "epochs": 1, "batch_size": 8, "warmup_epochs": 0, "weight_decay": 0.0}
    changes = []
    for alpha in (6.0, 12.0):
        net = model()
        start = state(net)
        unlearn(net, forget, retain, NPO(), lora=LoraSettings(2, alpha), **settings)
        changes.append(net.model.layers[1].mlp.up_proj.weight.detach() - start["model.layers.1.mlp.up_proj.weight"])
    assert torch.allclose(changes[1], 2 * changes[0], rtol=1e-4, atol=1e-9)
    bound = 3 * 0.01 * 2 / 32**0.5  # two terms of lr times an entry of A, which peft draws within 1 / sqrt(inputs)
    assert 0.3 * bound < changes[0].abs().max() <= bound * (1 + 1e-6)


def test_same_bits_twice_and_the_global_generator_is_left_alone():
    forget, retain, _ = data()
    ends = []
    for seed in (0, 0, 1):
        net = model(dtype=torch.float32)
        torch.manual_seed(len(ends))
        before = torch.get_rng_state()
        unlearn(net, forget, retain, NPO(), lora=LORA, seed=seed, **SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(state(net))
    assert all(same_bits(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_a_task_vector_of_adapters_is_negated():
    forget, retain, _ = data()
    changes = []
    for scale in (1.0, 0.5):
        net = model()
        start = state(net)
        unlearn(net, forget, retain, TaskVector(scale=scale), lora=LORA, **SETTINGS)
        changes.append({name: value - start[name] for name, value in state(net).items() if "proj" in name})
    for name, change in changes[0].items():
        assert torch.allclose(change, 2 * changes[1][name], rtol=1e-9, atol=1e-12)
        assert change.any()


def test_only_the_layers_asked_for_get_adapters():
    net, (forget, retain, _) = model(), data()
    start = state(net)
    unlearn(net, forget, retain, NPO(), update=Update(top=1), lora=LORA, **SETTINGS)
    for name, p in net.named_parameters():
        assert torch.equal(p, start[name]) == (not ("proj" in name and ".layers.1." in name)), name


@pytest.mark.parametrize("settings", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"alpha": float("nan")}])
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: got "):
        LoraSettings(**settings)
