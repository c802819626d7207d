"""Layers whose weights are not all in linear maps, and maps that see all positions of a batch at once."""

import language_problems as problems
import pytest
import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from palimpsest.nets import language
from palimpsest.pruning import prune, random_masks
from palimpsest.pruning.decoder import require_linear
from palimpsest.unlearning.language import METHODS, LoraSettings, Update, importances, unlearn
from palimpsest.unlearning.language.stress import round_trip_4bit
from palimpsest.unlearning.language.task import Task
from palimpsest.unlearning.language.update import movable

SIZES = {"vocab_size": problems.VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MIXED = {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {
    "Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, **MIXED, num_local_experts=4)),
    "Qwen3Moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, **MIXED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    ),
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_that_no_linear_map_holds_are_refused_wherever_linear_maps_are_meant(kind):
    model = EXPERTS[kind]()
    before, refusal = problems.state(model), pytest.raises(ValueError, match=f"model: got {kind}.*experts")
    for touch in (
        lambda: prune(model, None, method="magnitude", sparsity=0.5),
        lambda: random_masks(model, 0.5, 0),
        lambda: round_trip_4bit(model),
        lambda: movable(model, Update(trainable="linear")),
        lambda: unlearn(model, *problems.data()[:2], METHODS["NPO"], lr=1e-3, lora=LoraSettings(2)),
    ):
        with refusal:
            touch()
    assert all(torch.equal(before[name], value) for name, value in problems.state(model).items())


def test_a_dense_mixture_unlearns_with_all_its_weights():
    model = EXPERTS["Mixtral"]()
    before = problems.state(model)
    unlearn(model, *problems.data()[:2], METHODS["NPO"], **problems.SETTINGS)
    name = "model.layers.0.mlp.experts.down_proj"
    assert not torch.equal(before[name], problems.state(model)[name])


def opt():
    torch.manual_seed(0)
    config = OPTConfig(**SIZES, ffn_dim=24, dropout=0.0, init_std=0.3, word_embed_proj_dim=16, pad_token_id=1)
    return OPTForCausalLM(config).double().eval()


@pytest.mark.parametrize("kind", ["wanda", "saliency", "fisher"])
def test_maps_that_see_a_flat_batch_have_importances(kind):
    model = opt()
    require_linear(model)
    masks = random_masks(model, 0.5, 3)
    forget, retain, _ = problems.data()
    settings = {"parameters": dict(model.named_parameters()), "kept": masks.kept}
    found, alone = (importances(Task(model, forget, retain, **settings, batch_size=size), kind) for size in (3, 1))
    for name in masks.kept:
        assert torch.allclose(found[name], alone[name], rtol=1e-9, atol=1e-12)
    assert any("fc1" in name for name in found)


def test_the_flat_norms_leave_padding_out():
    model = opt()
    masks = random_masks(model, 0.5, 3)
    forget, _, _ = problems.data()
    settings = {"parameters": dict(model.named_parameters()), "kept": masks.kept, "batch_size": 6}
    changed = language.Encoded(forget.ids.clone(), forget.labels)
    ends = (changed.labels != language.IGNORED).int().cumsum(1).argmax(1)
    for row, end in enumerate(ends.tolist()):
        changed.ids[row, end + 2 :] = 7  # what stands in the padding
    one, other = (importances(Task(model, data, data, **settings), "wanda") for data in (forget, changed))
    assert all(torch.equal(one[name], other[name]) for name in one)
