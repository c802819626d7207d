import math

import numpy as np
import pytest
import torch
from pairs import VOCABULARY, Bigram, llama, nearby, plain

from palimpsest import decoding
from palimpsest.decoding import Decoder, Drafter, ModelDrafter, Policy, PromptLookup, TokenRecycling, Tree
from palimpsest.decoding.distributions import Distribution

PROMPT = [3, 14, 15, 9, 26, 5, 3, 14]
COUNT = 12


def run(target, drafter, policy="sage", prompt=PROMPT, count=COUNT, **options):
    options = {"stop_tokens": ()} | options
    return decoding.generate(target, drafter, prompt, policy=policy, max_new_tokens=count, **options)


class Wild(Policy):
    """A new random tree every round, empty ones among them."""

    def next(self, signal, history):
        generator = np.random.default_rng(len(history))
        size = int(generator.integers(0, 30))
        return Tree(tuple(int(generator.integers(max(-1, node - 12), node)) for node in range(size)))


class WildOnline(Policy):
    """Random children of random nodes, and a random part of them verified."""

    online = True

    def grow(self, drafted, frontier, depth, signal, history):
        generator = np.random.default_rng((len(history), depth))
        grown = [child for node in frontier for child in drafted.branch(node, int(generator.integers(0, 4)))]
        return [node for node in grown if generator.random() < 0.7] if depth < 6 else []

    def select(self, drafted):
        chosen, dropped = [], set()
        generator = np.random.default_rng(len(drafted))
        for node, parent in enumerate(drafted.parents):
            last = [child for child in chosen if drafted.parents[child] == parent]
            gap = any(other in dropped for other in range(node) if drafted.parents[other] == parent)
            if gap or parent in dropped or (last and generator.random() < 0.4):
                dropped.add(node)
            else:
                chosen.append(node)
        return chosen


class Fixed(Drafter):
    """Always the same tokens, whatever the text says."""

    def prefill(self, inputs, k):
        self._always = Distribution(list(range(k)), [2.0 ** -(1 + rank) for rank in range(k)], 0.4, 1.0)

    def start(self, committed):
        return self._always

    def expand(self, drafted, nodes):
        for node in nodes:
            drafted.distributions[node] = self._always


POLICIES = {name: name for name in decoding.policies} | {
    "sage, online": decoding.policies["sage"](tree="online"),
    "sage, current": decoding.policies["sage"](source="current", threshold="token"),
    "sage, deepest": decoding.policies["sage"](source="deepest"),
    "sage, mean": decoding.policies["sage"](source="mean"),
    "wild": Wild(),
    "wild online": WildOnline(),
}


@pytest.fixture(scope="module")
def models():
    return {dtype: llama(7, dtype=dtype, layers=1) for dtype in (torch.float32, torch.float64)}


@pytest.fixture(scope="module")
def references(models):
    """Plain decoding by whole-text forwards."""
    return {dtype: plain(model, PROMPT, COUNT) for dtype, model in models.items()}


@pytest.fixture(scope="module")
def drafters(models):
    return {
        "nearby": lambda dtype: nearby(models[dtype], 0.02),
        "random": lambda dtype: llama(99, dtype=dtype, layers=1),
        "fixed": lambda dtype: Fixed(),
        "recycling": lambda dtype: TokenRecycling(),
        "lookup": lambda dtype: PromptLookup(),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_text_is_plain_decodings(policy, dtype, models, references, drafters):
    for name in drafters if dtype == torch.float32 else ("nearby",):
        make = drafters[name]
        got = run(models[dtype], make(dtype), POLICIES[policy])
        assert got.tokens == references[dtype]
        stats = got.stats
        assert stats.target_forwards == stats.rounds + 1 <= COUNT
        assert 1 + sum(stats.accepted) + stats.rounds - COUNT in (0, 1)  # the last bonus may be cut off
        assert len(stats.tree_sizes) == len(stats.alphas) == stats.rounds


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_plain_decodings_under_the_same_noise(policy, models, drafters):
    model = models[torch.float32]
    options = {"temperature": 0.7, "seed": 3}
    want = run(model, None, "autoregressive", **options).tokens
    for name in ("nearby", "recycling"):
        assert run(model, drafters[name](torch.float32), POLICIES[policy], **options).tokens == want


def test_each_level_of_a_drawn_path_has_its_own_noise():
    """Every token has two successors, equally likely: noise decides each step, and the tree holds most paths."""
    table = torch.full((VOCABULARY, VOCABULARY), -30.0)
    for token in range(VOCABULARY):
        table[token, [(2 * token + 1) % VOCABULARY, (2 * token + 2) % VOCABULARY]] = 0
    accepted = []
    for seed in range(4):
        options = {"temperature": 1.0, "seed": seed}
        got = run(Bigram(table), Bigram(table), "static", **options)
        assert got.tokens == run(Bigram(table), None, "autoregressive", **options).tokens
        accepted += got.stats.accepted
    assert max(accepted) >= 3


def test_plain_decoding_is_transformers_own(models, references):
    model = models[torch.float32]
    ids = torch.tensor([PROMPT])
    want = model.generate(ids, max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert want[0, len(PROMPT) :].tolist() == references[torch.float32] == run(model, None, "autoregressive").tokens


def test_a_perfect_drafter_saves_forwards(models):
    model = models[torch.float32]
    got = run(model, model, decoding.policies["chain"](length=5))
    assert got.stats.accepted == [5, 4]  # 1 + 6 + 5: the last tree is as deep as the text is long
    assert got.stats.target_forwards == 3
    assert got.stats.draft_forwards == 1 + 5 + 4
    assert got.stats.mean_accepted == 4.5


def test_seeds_positions_and_temperatures_matter(models):
    model = models[torch.float32]
    texts = {tuple(run(model, None, "autoregressive", temperature=1.0, seed=seed).tokens) for seed in range(4)}
    assert len(texts) == 4
    whole = run(model, None, "autoregressive", temperature=1.0).tokens
    rest = run(model, None, "autoregressive", prompt=PROMPT + whole[:5], count=COUNT - 5, temperature=1.0).tokens
    assert whole[5:] == rest  # noise belongs to the absolute position
    cold = run(model, None, "autoregressive", temperature=1e-6).tokens
    assert cold == run(model, None, "autoregressive").tokens


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
    with pytest.raises(ValueError, match="drafter: got a vocabulary of 40 tokens, want the target's 50"):
        run(models[torch.float32], llama(0, vocabulary=40))


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


def test_a_table_is_a_target_too():
    """The tests of the sampled distribution rely on it."""
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    want, token = [], PROMPT[-1]
    for _ in range(COUNT):
        token = int(table[token].argmax())
        want.append(token)
    assert run(Bigram(table), Bigram(table), "eagle2").tokens == want
