"""Answers of models with states, with caches or positions of their own: those of one prompt at a time, or refused."""

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    FalconMambaConfig,
    FalconMambaForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from palimpsest.nets import language
from palimpsest.unlearning.language import evaluation
from palimpsest.unlearning.language.inference import Intervened, Intervention

TOKENIZER = language.tokenizer(["Which is the capital of France? Paris."] * 2, 265)
QUESTIONS = ["Which is the capital of France?", "Why?", "Who?"]
WIDTH = {"vocab_size": 265, "hidden_size": 16}
SIZES = WIDTH | {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
STATES = {
    "jamba": lambda: JambaForCausalLM(
        JambaConfig(**SIZES, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4)
    ),
    "lfm2": lambda: Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])),
    # It counts positions by itself, from the padding on.
    "bart": lambda: BartForCausalLM(
        BartConfig(vocab_size=265, d_model=16, decoder_layers=1, decoder_ffn_dim=24, decoder_attention_heads=2)
    ),
}
NO_KEYS, OWN = "whose decoder takes no past_key_values", "which needs a cache of its own kind"
REFUSED = {
    "mamba": (lambda: MambaForCausalLM(MambaConfig(**WIDTH, state_size=4, num_hidden_layers=1)), NO_KEYS),
    "falcon mamba": (
        lambda: FalconMambaForCausalLM(FalconMambaConfig(**WIDTH, state_size=4, num_hidden_layers=1)),
        NO_KEYS,
    ),
    "rwkv": (lambda: RwkvForCausalLM(RwkvConfig(**WIDTH, attention_hidden_size=16, num_hidden_layers=2)), NO_KEYS),
    "minimax": (lambda: MiniMaxForCausalLM(MiniMaxConfig(**SIZES, head_dim=8, num_local_experts=2)), OWN),
    "recurrent gemma": (
        lambda: RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(**SIZES, block_types=["recurrent", "attention"], lru_width=16)
        ),
        OWN,
    ),
}


def made(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.4)  # as they come all prompts have one answer
    return model


def alone(model, question, most):
    """Greedy tokens, each from a pass over the whole text."""
    ids = torch.tensor(language.prompt_ids(TOKENIZER, [question]))
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(most):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(2)], 1)
    return ids[0, start:].tolist()


@pytest.mark.parametrize("name", STATES)
def test_answers_are_those_of_whole_texts_also_when_rows_leave_the_batch(name):
    model = made(STATES[name])
    free = [alone(model, question, 6) for question in QUESTIONS]
    # What one answer says and another does not ends it.
    stops = {TOKENIZER.eos_token_id, next(token for token in free[1] if token not in free[0])}
    model.generation_config.eos_token_id = sorted(stops)
    ends = [next((at for at, token in enumerate(ids) if token in stops), len(ids)) for ids in free]
    assert len(set(ends)) > 1
    texts = [TOKENIZER.decode(ids[:end], skip_special_tokens=True) for ids, end in zip(free, ends, strict=True)]
    assert evaluation.generate(model, TOKENIZER, QUESTIONS, 6) == [text.strip() for text in texts]


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_does_not_write_on_from_a_cache_is_refused_before_it_runs(name, monkeypatch):
    build, why = REFUSED[name]
    model = made(build)
    monkeypatch.setattr(model, "forward", None)
    with pytest.raises(ValueError, match=f"model: got a {type(model).__name__}, {why}"):
        evaluation.generate(model, TOKENIZER, QUESTIONS, 2)


def test_a_model_under_an_intervention_is_refused_by_the_same_words():
    model = Intervened(Intervention(made(STATES["lfm2"])))
    with pytest.raises(ValueError, match=f"got a Intervened, {NO_KEYS}"):
        evaluation.generate(model, TOKENIZER, QUESTIONS, 2)
