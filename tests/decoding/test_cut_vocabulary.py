"""A drafter that predicts a part of the vocabulary, and decoders that are compiled."""

import pytest
import torch
from pairs import COUNT, PROMPT, llama, nearby, path_logits
from safetensors.torch import save_file

from palimpsest import decoding
from palimpsest.data import smollm2_drafter
from palimpsest.decoding import compiled
from palimpsest.decoding.cut_vocabulary import CutVocabularyDrafter

TOKENS = torch.tensor([2, 3, 9, 14, 15, 17, 26, 31, 40, 44, 47, 49])


def test_a_cut_drafter_ranks_its_own_tokens_by_the_whole_models_logits():
    model = llama(5, layers=1, tie_word_embeddings=True)
    drafter = CutVocabularyDrafter(smollm2_drafter.cut(model, 1, TOKENS), TOKENS.tolist())
    drafter.suit(model.config.vocab_size)
    drafter.prefill(PROMPT, 4)
    got = drafter.start([9])
    known = path_logits(model, [*PROMPT, 9])[-1][TOKENS].double().softmax(-1)
    want = known.topk(4)
    assert list(got.tokens) == TOKENS[want.indices].tolist()
    # A logit's rounding error moves a probability by its own size at most, relatively.
    assert torch.tensor(got.probs) * got.mass == pytest.approx(want.values.numpy(), rel=1e-4)


@pytest.mark.parametrize("policy", ["chain", "sage", "eagle2"])
def test_a_cut_drafter_leaves_the_text_as_it_is(policy):
    model = llama(6)
    plain = decoding.generate(model, None, PROMPT, policy="autoregressive", max_new_tokens=COUNT)
    drafter = CutVocabularyDrafter(smollm2_drafter.cut(model, 2, TOKENS), TOKENS.tolist())
    out = decoding.generate(model, drafter, PROMPT, policy=policy, max_new_tokens=COUNT)
    assert out.tokens == plain.tokens


def test_what_is_packed_comes_back_within_half_a_step(tmp_path):
    model = llama(7, tie_word_embeddings=True)
    trained = smollm2_drafter.cut(model, 2, TOKENS)
    with torch.no_grad():
        for parameter in trained.model.layers.parameters():
            parameter.add_(0.1)
    save_file(smollm2_drafter.packed(trained.model.layers, TOKENS), tmp_path / "drafter.safetensors")
    read, tokens = smollm2_drafter.load(model, tmp_path / "drafter.safetensors")
    assert tokens == TOKENS.tolist()
    assert read.model.embed_tokens is model.model.embed_tokens
    for name, weight in trained.model.layers.named_parameters():
        got = read.model.layers.get_parameter(name)
        if weight.ndim == 1:
            assert torch.equal(got, weight)
        else:
            # Half a step is 1/254 of the row's largest; the two divisions round by a few parts in 10^7 beside it.
            step = weight.abs().amax(1, keepdim=True) / 127
            assert ((got - weight).abs() <= 0.5001 * step).all()
            assert (got != weight).any()


def test_padded_rows_and_a_cache_of_one_size_change_neither_text_nor_rounds(monkeypatch):
    # Of the arithmetic only: what the compiler makes of it is its own affair, and takes a minute.
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(compiled, "ROWS", 32)
    target = llama(3)
    drafter = nearby(target, 0.05)
    options = {"policy": "sage", "max_new_tokens": 40, "stop_tokens": ()}  # the cache grows once
    want = decoding.generate(target, drafter, PROMPT, **options)
    got = decoding.generate(*map(compiled.CompiledDecoder, (target, drafter)), PROMPT, **options)
    assert got.tokens == want.tokens
    assert got.stats.accepted == want.stats.accepted
    assert sum(got.stats.accepted) > 5
