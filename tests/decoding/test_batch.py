import pytest
import torch
from pairs import llama, nearby

from palimpsest import decoding
from palimpsest.decoding import Decoder, PromptLookup, TokenRecycling, batch, cache

PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5, 8, 9, 7], [1], [3, 2, 3, 8, 4, 6]]


@pytest.fixture(scope="module")
def model():
    return llama(21, layers=1)


@pytest.mark.parametrize("policy", ["autoregressive", "sage", "opt_tree"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_batch_decodes_what_each_request_does_alone(policy, temperature, model):
    options = {"policy": policy, "max_new_tokens": 12, "temperature": temperature, "trace": True}
    drafter = nearby(model, 0.02)
    # The stop tokens are from the texts, so that the requests leave the batch one by one.
    plain = {"policy": "autoregressive", "max_new_tokens": 12, "temperature": temperature, "stop_tokens": ()}
    texts = [decoding.generate(model, None, PROMPTS[i], seed=5 + i, **plain).tokens for i in range(2)]
    stops = {texts[0][2], texts[1][7]}
    alone = [
        decoding.generate(model, drafter, prompt, stop_tokens=stops, seed=5 + i, **options)
        for i, prompt in enumerate(PROMPTS)
    ]
    got = decoding.generate_batch(model, drafter, PROMPTS, stop_tokens=stops, seed=5, **options)
    assert len({len(one.tokens) for one in alone}) > 1
    for one, other in zip(got, alone, strict=True):
        assert one.tokens == other.tokens
        for name in ("accepted", "tree_sizes", "target_forwards", "draft_forwards"):
            assert getattr(one.stats, name) == getattr(other.stats, name)
        assert [step.tree for step in one.stats.trace] == [step.tree for step in other.stats.trace]


def test_one_forward_a_round_for_all(model, monkeypatch):
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    outputs = decoding.generate_batch(model, None, PROMPTS, policy="autoregressive", max_new_tokens=6, stop_tokens=())
    assert len(calls) == len(PROMPTS) + 5
    assert all(one.stats.times is outputs[0].stats.times for one in outputs)


@pytest.mark.parametrize("make", [TokenRecycling, PromptLookup])
def test_drafters_without_a_model_serve_a_batch(make, model):
    options = {"policy": "static", "max_new_tokens": 12, "stop_tokens": ()}
    want = [decoding.generate(model, None, p, **options | {"policy": "autoregressive"}).tokens for p in PROMPTS]
    got = decoding.generate_batch(model, make(), PROMPTS, **options)
    assert [one.tokens for one in got] == want


def test_rows_grow_beyond_the_first_allocation(model, monkeypatch):
    monkeypatch.setattr(batch, "ROOM", 1)
    monkeypatch.setattr(cache, "ROOM", 1)
    options = {"policy": "autoregressive", "max_new_tokens": 16, "stop_tokens": ()}
    alone = decoding.generate(model, None, PROMPTS[0], **options)
    assert decoding.generate_batch(model, None, PROMPTS[:2], **options)[0].tokens == alone.tokens


def test_shorter_requests_are_not_touched_by_padding(model):
    """The rows of a batch after a commit are those of each request alone, up to rounding."""
    together, alone = [Decoder(model) for _ in range(2)], [Decoder(model) for _ in range(2)]
    trees = [decoding.SPECVLM, decoding.Tree.chain(2)]
    proposals = [([7, *range(len(tree))], *tree.verification) for tree in trees]
    kept = [[0, 2, 10], [0, 1]]
    for decoder, prompt in zip(together + alone, PROMPTS[:2] * 2, strict=True):
        decoder.prefill(prompt)
    both = batch.Batch(together)
    logits = both.extend(proposals)
    both.commit(kept)
    for i, (decoder, proposal) in enumerate(zip(alone, proposals, strict=True)):
        torch.testing.assert_close(logits[i], decoder.extend(*proposal), rtol=0, atol=1e-5)
        decoder.commit(kept[i])
        assert together[i].length == decoder.length
        for ours, theirs in zip(both._cache.layers, decoder.rows(), strict=True):
            ours, theirs = ours.keys[i, :, : decoder.length], theirs.keys[0, :, : decoder.length]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("inputs", "message"), [([], "got list of 0"), ({"input_ids": PROMPTS}, "got dict of 1")])
def test_what_is_no_batch_is_refused(inputs, message, model):
    with pytest.raises(ValueError, match=f"inputs: {message}, want a sequence of at least one prompt"):
        decoding.generate_batch(model, None, inputs, policy="autoregressive", max_new_tokens=3)


def test_rows_of_a_tensor_are_a_batch(model):
    options = {"policy": "autoregressive", "max_new_tokens": 3, "stop_tokens": ()}
    prompts = [[3, 14], [15, 9]]
    alone = [decoding.generate(model, None, prompt, **options).tokens for prompt in prompts]
    got = decoding.generate_batch(model, None, torch.tensor(prompts), **options)
    assert [one.tokens for one in got] == alone
