"""Models that are not as most are, and models that are broken: exact text, or a refusal that says why."""

from copy import deepcopy

import pytest
import torch
from pairs import COUNT, PROMPT, VOCABULARY, Bigram, llama, nearby, plain, run, small
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from palimpsest import decoding
from palimpsest.decoding.drafters import PADDING

POLICIES = ("autoregressive", "chain", "sage", "eagle2")


def with_vocabulary(model, size, seed=0):
    """A copy whose embeddings have `size` rows: fewer, or others as likely as those that were there."""
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for part in (copy.get_input_embeddings(), copy.get_output_embeddings()):
        more = torch.randn(max(0, size - VOCABULARY), part.weight.shape[1], generator=generator)
        part.weight = nn.Parameter(torch.cat([part.weight.detach(), more])[:size])
    copy.config.vocab_size = size
    return copy


# Logits that are no numbers


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("policy", POLICIES)
def test_logits_that_are_no_numbers_are_refused(policy, bad, temperature):
    table = torch.zeros(4, 4)
    table[0, 2] = bad
    told = []
    with pytest.raises(ValueError, match=rf"target: got {bad} as the largest logit of the token at position 1, want"):
        run(Bigram(table), Bigram(table.nan_to_num()), policy, [0], temperature=temperature, callback=told.append)
    assert told == []


def test_logits_that_become_nan_are_refused_where_they_do():
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).fill_diagonal_(-9)
    table[int(table[0].argmax())] = float("nan")
    with pytest.raises(ValueError, match="target: got nan as the largest logit of the token at position 2"):
        run(Bigram(table), Bigram(table.nan_to_num(0.0)), "chain", prompt=[0])


def test_rows_that_nothing_is_taken_from_may_be_broken_and_impossible_tokens_are_minus_infinity():
    table = torch.full((4, 4), float("-inf"))
    table[0, 1] = table[1, 2] = table[2, 0] = 1.0
    table[3] = float("nan")  # after a token that never comes
    draft = torch.zeros(4, 4)
    assert run(Bigram(table), Bigram(draft), "static", prompt=[0], count=6).tokens == [1, 2, 0, 1, 2, 0]


def test_a_broken_drafter_is_refused_by_its_name():
    model = llama(0)
    broken = nearby(model, 0.0)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="drafter: logits: row 0 holds NaN"):
        run(model, broken, "chain")


# Dropout


def test_a_model_in_training_mode_is_refused_before_anything_is_read():
    model = llama(0, attention_dropout=0.5)
    other = nearby(model, 0.01)
    for name, target, drafter in (("target", other.train(), model), ("drafter", model, other)):
        with pytest.raises(ValueError, match=rf"{name}: got LlamaForCausalLM in training mode, want model.eval\(\)"):
            run(target, drafter, "chain")
        with pytest.raises(ValueError, match=rf"{name}: got LlamaForCausalLM in training mode"):
            decoding.generate_batch(target, drafter, [PROMPT], policy="chain", max_new_tokens=3)
    other.eval().model.layers[0].self_attn.train()
    with pytest.raises(ValueError, match="drafter: got LlamaForCausalLM in training mode"):
        run(model, other, "chain")
    assert run(model, other.eval(), "chain").tokens == plain(model, PROMPT, COUNT)


# Vocabularies that are padded differently


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("sizes", [(VOCABULARY, VOCABULARY + 14), (VOCABULARY + 14, VOCABULARY)], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_vocabularies_may_be_padded_differently(policy, sizes, temperature):
    model = llama(0)
    target, drafter = (with_vocabulary(model, size) for size in sizes)
    alone = run(target, None, "autoregressive", count=40, temperature=temperature)
    got = run(target, drafter, policy, count=40, temperature=temperature, trace=True)
    assert got.tokens == alone.tokens
    assert all(token < min(sizes) for one in got.stats.trace for token in one.tokens)
    if temperature == 0 and policy != "autoregressive" and sizes[0] < sizes[1]:  # else it says what no draft can
        assert got.stats.mean_accepted > 1
    both = decoding.generate_batch(
        target, drafter, [PROMPT], policy=policy, max_new_tokens=40, temperature=temperature, stop_tokens=()
    )
    assert both[0].tokens == alone.tokens


def test_the_target_may_say_a_token_that_the_drafter_lacks():
    target = with_vocabulary(llama(0), VOCABULARY + 14)
    with torch.no_grad():
        target.lm_head.weight[VOCABULARY:] *= 9
    alone = run(target, None, "autoregressive", count=40).tokens
    assert max(alone) >= VOCABULARY
    for policy in POLICIES:
        assert run(target, llama(0), policy, count=40).tokens == alone


def test_vocabularies_may_differ_by_as_much_as_padding():
    model = llama(0)
    assert run(model, with_vocabulary(model, VOCABULARY + PADDING), "chain").tokens == plain(model, PROMPT, COUNT)


# Keys and values of different widths


@pytest.mark.parametrize("policy", POLICIES)
def test_keys_may_be_wider_than_values(policy):
    torch.manual_seed(0)
    config = small(
        DeepseekV3Config, vocab_size=VOCABULARY, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=12, first_k_dense_replace=1, num_key_value_heads=4,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)
    want = plain(model, PROMPT, COUNT)
    assert len(set(want)) > 3
    got = run(model, nearby(model, 0.002), policy)
    assert got.tokens == want
    assert policy == "autoregressive" or sum(got.stats.accepted) > 0
    (batched,) = decoding.generate_batch(
        model, nearby(model, 0.002), [PROMPT], policy=policy, max_new_tokens=COUNT, stop_tokens=()
    )
    assert batched.tokens == want
    layer = decoding.adapt(model)
    layer.prefill(PROMPT)
    assert layer.rows()[0].keys.shape[3] != layer.rows()[0].values.shape[3]
