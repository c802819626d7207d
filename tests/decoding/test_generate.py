import numpy as np
import pytest
import torch
import transformers
from pairs import COUNT, PROMPT, VOCABULARY, Bigram, llama, nearby, run, small
from transformers import AutoModelForCausalLM

from palimpsest import decoding
from palimpsest.decoding import Drafter, Policy, PromptLookup, TokenRecycling, Tree
from palimpsest.decoding.distributions import Distribution


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


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma", "Gemma2", "Gemma3Text", "Mistral"])
def test_other_classes_say_what_transformers_own_generate_says(kind):
    options = {"vocab_size": VOCABULARY, "pad_token_id": 0, "num_key_value_heads": 2, "tie_word_embeddings": False}
    options |= {"head_dim": 8} if kind.startswith("Gemma") else {}
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(small(getattr(transformers, f"{kind}Config"), **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    ids = torch.tensor([PROMPT])
    want = model.generate(ids, max_new_tokens=COUNT, do_sample=False, eos_token_id=None)[0, len(PROMPT) :].tolist()
    assert len(set(want)) > 3
    for policy in decoding.policies:
        assert run(model, nearby(model, 0.02), policy).tokens == want


def test_seeds_positions_and_temperatures_matter(models):
    model = models[torch.float32]
    texts = {tuple(run(model, None, "autoregressive", temperature=1.0, seed=seed).tokens) for seed in range(4)}
    assert len(texts) == 4
    whole = run(model, None, "autoregressive", temperature=1.0).tokens
    rest = run(model, None, "autoregressive", prompt=PROMPT + whole[:5], count=COUNT - 5, temperature=1.0).tokens
    assert whole[5:] == rest  # noise belongs to the absolute position
    greedy = run(model, None, "autoregressive").tokens
    for temperature in (1e-6, 5e-324):  # logits over the second are infinite
        assert run(model, None, "autoregressive", temperature=temperature).tokens == greedy


def test_a_table_is_a_target_too():
    """The tests of the sampled distribution rely on it."""
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    want, token = [], PROMPT[-1]
    for _ in range(COUNT):
        token = int(table[token].argmax())
        want.append(token)
    assert run(Bigram(table), Bigram(table), "eagle2").tokens == want
