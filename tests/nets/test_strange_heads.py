"""Models that change their logits before or after the output embedding, whatever they call it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    OPTConfig,
    OPTForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from palimpsest.nets import language
from palimpsest.unlearning.language.evaluation import generate

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
MAMBA = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}
CHANGED = {
    "Falcon-H1": lambda: FalconH1ForCausalLM(FalconH1Config(**SIZES, **MAMBA, lm_head_multiplier=0.04)),
    "RecurrentGemma": lambda: RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**SIZES, logits_soft_cap=30.0)),
    "Granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "Cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.06)),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_change_of_the_logits_is_seen_whatever_its_name(kind):
    model = CHANGED[kind]().float()
    for _ in range(2):  # a refusal is not remembered as a success
        with pytest.raises(ValueError, match="want one whose logits are hidden states times an embedding alone"):
            language.output_embedding(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_multipliers_of_one_are_no_change(dtype):
    model = FalconH1ForCausalLM(FalconH1Config(**SIZES, **MAMBA, lm_head_multiplier=1.0)).to(dtype)
    assert language.output_embedding(model) is model.lm_head.weight


def small(**changes):
    sizes = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 16} | changes
    return language.small_llama(40, 0, **sizes)


class Scaled(nn.Linear):
    def forward(self, states):
        return super().forward(states / 4)


def test_changes_by_hand_are_seen():
    scaled = small()
    scaled.lm_head = Scaled(16, 40, bias=False)
    before = small()
    before.model.register_forward_hook(lambda _, __, output: None)  # no change
    assert language.output_embedding(before) is before.lm_head.weight
    late = small()
    late.lm_head.register_forward_pre_hook(lambda _, given: (given[0] / 4,))
    for model in (scaled, late):
        with pytest.raises(ValueError, match="want one whose logits"):
            language.output_embedding(model)


@pytest.mark.parametrize("weight", ["model.norm.weight", "model.embed_tokens.weight"])
def test_weights_that_are_not_finite_are_no_change_but_do_not_hide_one(weight):
    plain, late = small(), small()
    late.lm_head.register_forward_pre_hook(lambda _, given: (given[0] / 4,))
    for model in (plain, late):
        before = model.get_parameter(weight).detach().clone()
        with torch.no_grad():
            model.get_parameter(weight)[0] = torch.nan
        assert language.output_embedding(model) is model.lm_head.weight  # what is computed with it is refused
        with torch.no_grad():
            model.get_parameter(weight).copy_(before)
    assert language.output_embedding(plain) is plain.lm_head.weight
    with pytest.raises(ValueError, match="want one whose logits"):
        language.output_embedding(late)


def test_the_comparison_leaves_modes_hooks_and_random_numbers_and_is_made_once(monkeypatch):
    model = small().train()
    model.model.layers[0].eval()
    torch.manual_seed(5)
    state, calls, own = torch.get_rng_state(), [], model.forward
    monkeypatch.setattr(model, "forward", lambda **given: calls.append(1) or own(**given))
    for _ in range(3):
        language.output_embedding(model)
    assert len(calls) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.model.layers[0].training
    assert not model.lm_head._forward_pre_hooks
    assert not model.model._forward_hooks


def test_opt_is_plain_and_a_model_without_positions_has_no_limit():
    config = OPTConfig(vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2)
    model = OPTForCausalLM(config)
    assert language.output_embedding(model) is model.lm_head.weight
    assert language.context(model) == config.max_position_embeddings
    assert language.context(SimpleNamespace(config=MambaConfig())) > 10**12


def test_a_model_whose_sizes_lie_in_its_text_configuration_is_asked_and_answers():
    text = SIZES | {"vocab_size": 270, "max_position_embeddings": 90, "sliding_window": 16}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    marks = {"image_token_index": 266, "boi_token_index": 267, "eoi_token_index": 268}
    sees = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **marks)).eval()
    tokenizer = language.tokenizer(["Question: Who?\nAnswer: Me."] * 2, 260)
    assert language.context(sees) == 90
    encoded = language.encode(tokenizer, ["Who?"], ["Me."], 80)
    logits = sees(input_ids=encoded.ids).logits[0].log_softmax(-1)
    counted = encoded.labels[0] != language.IGNORED
    wanted = logits[counted, encoded.labels[0, counted]]
    assert torch.allclose(language.logprobs(sees, encoded)[0, counted], wanted, rtol=1e-4, atol=1e-5)
    assert len(generate(sees, tokenizer, ["Who?"], 3)) == 1
