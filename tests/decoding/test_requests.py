"""The end of the text, what is told meanwhile and afterwards, and what is refused."""

import math

import numpy as np
import pytest
import torch
from pairs import COUNT, PROMPT, VOCABULARY, llama, nearby, path_logits, run

from palimpsest import decoding
from palimpsest.decoding import Decoder, ModelDrafter, TokenRecycling
from palimpsest.decoding.distributions import ranked

# The end of the text


@pytest.mark.parametrize("policy", ["autoregressive", "chain", "sage", "eagle2"])
def test_every_length_is_a_beginning_of_the_longest(policy, models, references):
    model = models[torch.float32]
    for count in (1, 2, 3, 7, 11):
        got = run(model, model, policy, count=count)
        assert got.tokens == references[torch.float32][:count]
        assert got.stats.target_forwards <= count


@pytest.mark.parametrize("policy", ["autoregressive", "chain", "static", "opt_tree"])
def test_the_first_stop_token_ends_the_text(policy, models, references):
    model, whole = models[torch.float32], references[torch.float32]
    for stop in set(whole):
        got = run(model, model, policy, stop_tokens={stop, VOCABULARY - 1} - ({VOCABULARY - 1} & set(whole)))
        assert got.tokens == whole[: whole.index(stop) + 1]
        bonuses = got.stats.rounds
        assert len(got.tokens) - 1 - sum(got.stats.accepted) in (bonuses, bonuses - 1)


def test_stop_tokens_default_to_the_models_own(models, references):
    model, whole = models[torch.float32], references[torch.float32]
    ends, model.generation_config.eos_token_id = model.generation_config.eos_token_id, whole[4]
    try:
        want = whole[: whole.index(whole[4]) + 1]
        assert run(model, None, "autoregressive", stop_tokens=None).tokens == want
        model.generation_config.eos_token_id = [VOCABULARY - 1, whole[4]]
        assert run(model, model, "chain", stop_tokens=None).tokens == want
        model.generation_config.eos_token_id = None
        assert run(model, model, "chain", stop_tokens=None).tokens == whole
    finally:
        model.generation_config.eos_token_id = ends


def test_stop_tokens_in_any_collection(models, references):
    model, whole = models[torch.float32], references[torch.float32]
    want = whole[: whole.index(whole[4]) + 1]
    for stops in ([whole[4]], (np.int64(whole[4]),), torch.tensor([whole[4]])):
        assert run(model, model, "chain", stop_tokens=stops).tokens == want
    for stops in (whole[4], ["end"], [1.5]):
        with pytest.raises(ValueError, match=r"stop_tokens: got .*, want token numbers"):
            run(model, model, "chain", stop_tokens=stops)


def test_what_a_callback_does_to_its_tokens_is_its_own_affair(models, references):
    model = models[torch.float32]
    assert run(model, model, "sage", callback=lambda new: new.clear()).tokens == references[torch.float32]


def test_tokens_stream_as_they_come(models, references):
    model, pieces = models[torch.float32], []
    got = run(model, model, decoding.policies["chain"](length=3), callback=lambda new: pieces.append(list(new)))
    assert [token for piece in pieces for token in piece] == got.tokens == references[torch.float32]
    assert [len(piece) for piece in pieces] == [1, 4, 4, 3]


# The record


def test_a_trace_tells_the_whole_decode(models):
    model = models[torch.float32]
    got = run(model, nearby(model, 0.02), "sage", trace=True)
    text = [got.tokens[0]]
    for i, one in enumerate(got.stats.trace):
        assert one.root == text[-1]
        assert len(one.tree) == len(one.tokens) == len(one.alphas) == len(one.probs) == got.stats.tree_sizes[i]
        assert [one.tree.parents[node] for node in one.path] == [-1, *one.path[:-1]][: len(one.path)]
        text += [*(one.tokens[node] for node in one.path), one.bonus]
        asked = {one.tree.parents[node] for node in range(len(one.tree))} - {-1}
        assert {node for node, alpha in enumerate(one.alphas) if alpha is not None} == asked
        assert (one.shape is None) == (one.signal_alpha is None) == (i == 0)
        if i:
            assert one.signal_alpha == got.stats.trace[i - 1].root_alpha  # look-ahead: the round before's
    assert text[:COUNT] == got.tokens
    assert run(model, model, "sage").stats.trace is None


@pytest.mark.parametrize("policy", ["static", "opt_tree", decoding.policies["eagle2"](nodes=4, depth=4, top_k=3)])
def test_a_drafter_is_asked_about_the_text_as_it_is(policy, models):
    """Its confidence after each root is that of its model behind the whole text: nothing of a rejected or dropped
    node stays in its cache, whose errors no text would show."""
    model = nearby(models[torch.float32], 0)
    with torch.no_grad():
        model.lm_head.weight.mul_(16)  # sure enough of itself for trees that go deep and leave nodes out
    drafter = nearby(model, 0.01)
    got = run(model, drafter, policy, trace=True)
    text = [*PROMPT, got.tokens[0]]
    k = 10 if isinstance(policy, str) else policy.k
    for one in got.stats.trace:
        if one.root_alpha is not None:
            want = ranked(path_logits(drafter, text)[-1:], k)[0].alpha
            assert one.root_alpha == pytest.approx(want, abs=1e-4)
        text += [*(one.tokens[node] for node in one.path), one.bonus]
    assert max(got.stats.accepted) > 1


def test_a_single_token_left_is_not_drafted(models):
    model = models[torch.float32]
    stats = run(model, model, decoding.policies["chain"](length=5), count=8).stats
    assert stats.tree_sizes == [5, 0]
    assert stats.draft_forwards == 1 + 5


def test_a_drafter_observes_every_row_that_the_target_reads(models):
    class Watching(TokenRecycling):
        def observe(self, tokens, logits):
            seen.append((list(tokens), len(logits)))
            super().observe(tokens, logits)

    seen = []
    got = run(models[torch.float32], Watching(), "static", trace=True)
    want = [PROMPT[-1:], *([one.root, *one.tokens] for one in got.stats.trace if one.root_alpha is not None)]
    assert seen == [(rows, len(rows)) for rows in want]
    assert max(map(len, want)) > 10


def test_without_look_ahead_the_round_itself_shapes_its_tree(models):
    model = models[torch.float32]
    got = run(model, nearby(model, 0.02), decoding.policies["sage"](source="current"), trace=True)
    assert all(one.signal_alpha == one.root_alpha for one in got.stats.trace)


def test_plain_decoding_has_nothing_to_trace_but_tokens(models):
    got = run(models[torch.float32], None, "autoregressive", trace=True, count=4)
    assert [one.bonus for one in got.stats.trace] == got.tokens[1:]
    assert got.stats.alphas == [None] * 3
    assert got.stats.draft_forwards == 0
    assert math.isnan(run(models[torch.float32], None, "autoregressive", count=1).stats.mean_accepted)


def test_times_are_named_and_all_accounted_for(models):
    times = run(models[torch.float32], models[torch.float32]).stats.times
    assert set(times) == {"prefill_target", "prefill_draft", "draft", "tree", "verify", "commit", "other"}
    assert all(seconds > 0 for seconds in times.values())


def test_two_runs_are_alike(models):
    model = models[torch.float32]
    one, other = (run(model, nearby(model, 0.02), "opt_tree", temperature=1.0, trace=True) for _ in range(2))
    assert one.tokens == other.tokens
    assert one.stats.trace == other.stats.trace


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "best"}, "policy: got 'best', want a policy or one of 'autoregressive'"),
        ({"drafter": None}, "drafter: got None, want a drafter, which Sage needs"),
        ({"count": 0}, "max_new_tokens: got 0"),
        ({"count": True}, "max_new_tokens: got True"),
        ({"temperature": -0.1}, "temperature: got -0.1, want a finite number from 0"),
        ({"temperature": math.nan}, "temperature: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"count": 505}, "max_new_tokens: got 505, want at most 504, what the prompt leaves of the target's context"),
    ],
)
def test_arguments_that_are_refused(change, message, models):
    model = models[torch.float32]
    with pytest.raises(ValueError, match=message):
        run(**({"target": model, "drafter": model} | change))


def test_vocabularies_must_agree(models):
    with pytest.raises(
        ValueError, match="drafter: got a vocabulary of 179 tokens, want the target's 50, give or take"
    ):
        run(models[torch.float32], llama(0, vocabulary=179))


def test_the_drafters_context_counts_as_well(models):
    short = llama(7, layers=1, context=len(PROMPT) + COUNT)
    assert len(run(models[torch.float32], short).tokens) == COUNT
    with pytest.raises(ValueError, match="what the prompt leaves of the drafter's context"):
        run(models[torch.float32], llama(7, layers=1, context=len(PROMPT) + COUNT - 1))
    # In the target's context the very last position is used.
    assert run(short, short).tokens == run(models[torch.float32], short).tokens


def test_one_decoder_cannot_be_both(models):
    decoder = Decoder(models[torch.float32])
    with pytest.raises(ValueError, match="drafter: got the target's own Decoder"):
        run(decoder, ModelDrafter(decoder))
