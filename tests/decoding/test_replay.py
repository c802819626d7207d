"""A replay is the decode, round for round, wherever the trees follow from the text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import PROMPT, VOCABULARY, llama, nearby, properties
from visual_pairs import model, prompt

from palimpsest import decoding
from palimpsest.decoding import ModelDrafter, PrunedDrafter
from palimpsest.decoding.policies.static import fitted_tree
from palimpsest.decoding.replay import Followed, follow, replay

MOST = 24
SAGE = decoding.policies["sage"]
POLICIES = {
    "autoregressive": decoding.policies["autoregressive"](),
    "chain": decoding.policies["chain"](),
    "static": decoding.policies["static"](),
    "fitted": decoding.policies["static"](fitted_tree([0.5, 0.2, 0.1], 40, 6)),
    "sage": SAGE(),
    "deepest": SAGE(source="deepest"),
    "current": SAGE(source="current"),
    "token": SAGE(threshold="token"),
    "wide": SAGE(scale=0.0, width="constant"),
    "floor": SAGE(rounding="floor"),
    "cap": SAGE(adapt="cap", low=1, high=1.5, window=2),
}


@pytest.fixture(scope="module")
def pair():
    target = llama(3, dtype=torch.float64)
    return target, nearby(target, 0.01)


def both(target, drafter, inputs, policy, most, stop=()):
    """(the decode, its replay)"""
    options = {"policy": policy, "max_new_tokens": most, "stop_tokens": stop, "trace": True}
    decoded = decoding.generate(target, drafter, inputs, **options)
    plain = decoding.generate(target, None, inputs, **options | {"policy": "autoregressive"}).tokens
    vocabulary = decoding.adapt(target).vocabulary
    return decoded, replay(policy, follow(drafter, inputs, plain, policy.k, vocabulary), most)


def same(decoded, rounds):
    stats = decoded.stats
    assert [one.accepted for one in rounds] == stats.accepted
    assert [one.tree.parents for one in rounds] == [one.tree.parents for one in stats.trace]
    assert [one.alpha for one in rounds] == pytest.approx(stats.alphas)
    assert len(rounds) == stats.target_forwards - 1


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("most", [1, 2, 5, MOST])
def test_a_replay_is_the_decode(pair, name, most):
    decoded, rounds = both(pair[0], ModelDrafter(pair[1]), PROMPT, POLICIES[name], most)
    same(decoded, rounds)
    assert most < MOST or name == "autoregressive" or sum(decoded.stats.accepted) > 3


def test_a_stop_token_within_a_path_ends_the_replay_too(pair):
    policy = decoding.policies["chain"](6)
    whole = decoding.generate(*pair, PROMPT, policy=policy, max_new_tokens=MOST, stop_tokens=(), trace=True)
    ends = set()
    for stop in set(whole.tokens):
        decoded, rounds = both(pair[0], ModelDrafter(pair[1]), PROMPT, policy, MOST, (stop,))
        same(decoded, rounds)
        last = decoded.stats.trace[-1] if decoded.stats.trace else None
        ends.add(last is not None and decoded.stats.accepted[-1] < len(last.path))
    assert True in ends


@properties
@given(seed=st.integers(0, 99), noise=st.sampled_from([0.02, 0.1, 0.3]), name=st.sampled_from(sorted(POLICIES)))
def test_so_for_drafters_of_every_strength(seed, noise, name):
    target = llama(seed, dtype=torch.float64, layers=1)
    same(*both(target, ModelDrafter(nearby(target, noise, seed)), PROMPT[: 1 + seed % 7], POLICIES[name], 16))


@pytest.mark.parametrize("rule", ["attention", "uniform"])
def test_so_for_a_drafter_that_sees_half_of_the_picture(rule):
    family = "llava_onevision"
    target = model(family, 1, dtype=torch.float64)
    drafter = PrunedDrafter(nearby(target, 0.02), 0.5, by=rule)
    decoded, rounds = both(target, drafter, prompt(family, dtype=torch.float64), SAGE(), 12)
    same(decoded, rounds)


@pytest.mark.parametrize("name", ["eagle2", "opt_tree", "entropy_chain"])
def test_trees_that_grow_from_wrong_nodes_are_refused(pair, name):
    policy = decoding.policies[name]()
    with pytest.raises(ValueError, match=f"policy: got {type(policy).__name__}, whose trees do not follow"):
        replay(policy, Followed([1], []), 4)


@pytest.mark.parametrize("options", [{"source": "mean"}, {"tree": "online"}])
def test_readings_of_sage_that_look_at_rejected_nodes_are_refused(options):
    with pytest.raises(ValueError, match="do not follow from the text"):
        replay(SAGE(**options), Followed([1], []), 4)


def test_other_candidates_and_too_long_a_text_are_refused(pair):
    followed = follow(ModelDrafter(pair[1]), PROMPT, [1, 2, 3], 5, VOCABULARY)
    with pytest.raises(ValueError, match="got 5 candidates a token, want the policy's 10"):
        replay(SAGE(), followed, 8)
    with pytest.raises(ValueError, match="most: got 2, want at least the text's 3"):
        replay(SAGE(k=5), followed, 2)
    with pytest.raises(ValueError, match="tokens: got an empty text"):
        follow(ModelDrafter(pair[1]), PROMPT, [], 10, VOCABULARY)
