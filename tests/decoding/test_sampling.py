"""The distribution of sampled text, against the exact one; and the same tests with verifiers that are wrong."""

import itertools
import sys

import pytest
import torch
from pairs import Bigram
from scipy import stats

from palimpsest import decoding
from palimpsest.decoding import Tree, verify
from palimpsest.decoding.verify import Chooser, gumbel

WORDS, LENGTH, DRAWS, TEMPERATURE = 4, 3, 1500, 0.8
TARGET = 1.5 * torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(1))
DRAFTER = TARGET + torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(2))
GENERATE, REQUEST = (sys.modules[f"palimpsest.decoding.{name}"] for name in ("generate", "request"))


def exact():
    """Probability of each text of LENGTH words after word 0."""
    step = (TARGET.double() / TEMPERATURE).softmax(-1)
    texts = itertools.product(range(WORDS), repeat=LENGTH)
    return {
        text: torch.tensor([step[a, b] for a, b in itertools.pairwise((0, *text))]).prod().item() for text in texts
    }


def p_value(policy, draws=DRAWS):
    """Of Pearson's test that `draws` texts, each with its own seed, have the exact distribution.

    Cells expected less than five times are put together."""
    want = exact()
    counts = dict.fromkeys(want, 0)
    target, drafter = Bigram(TARGET), Bigram(DRAFTER)
    for seed in range(draws):
        out = decoding.generate(
            target, drafter, [0], policy=policy, max_new_tokens=LENGTH, temperature=TEMPERATURE, seed=seed
        )
        counts[tuple(out.tokens)] += 1
    rare = [text for text in want if draws * want[text] < 5]
    cells = [[counts[text], want[text]] for text in want if text not in rare]
    cells.append([sum(counts[text] for text in rare), sum(want[text] for text in rare)])
    observed, expected = zip(*cells, strict=True)
    return stats.chisquare(observed, [draws * p for p in expected]).pvalue


@pytest.mark.parametrize(
    "policy", [decoding.policies["chain"](length=2), decoding.policies["static"](Tree((-1, -1, 0)))]
)
def test_sampled_text_has_the_targets_distribution(policy):
    # One such test in a thousand fails by chance; the seeds are fixed, so that this one does not.
    assert p_value(policy) > 1e-3


def p_over_q(tree, tokens, choose):
    """Wrong here: accept a child with probability p/q, else draw from the rest, though the child was no draw of q."""
    logits, _, generator = choose
    path, node = [], -1
    while True:
        row = logits[node + 1].double() / TEMPERATURE
        p = row.softmax(-1)
        children = tree.children(node)
        if children:
            last = tokens[node] if node >= 0 else generator.root
            q = DRAFTER[last].double().softmax(-1)
            token = tokens[children[0]]
            if torch.rand((), generator=generator.torch) < p[token] / q[token]:
                node = children[0]
                path.append(node)
                continue
            p = (p - q).clamp(min=0)
        return path, int(torch.multinomial(p, 1, generator=generator.torch))


class PByQ(Chooser):
    """Hands `p_over_q` what it needs in the place of `choose`; plain draws for the first token."""

    def __call__(self, logits, position):
        if position == 1:
            self.generator = torch.Generator().manual_seed(self.seed)
            draw = super().__call__(logits, position)

            def first(row, depth):
                self.root = draw(row, depth)
                return self.root

            return first
        state = type("State", (), {"torch": self.generator, "root": self.root})
        return logits, position, state


def test_accepting_with_p_over_q_would_be_seen(monkeypatch):
    monkeypatch.setattr(GENERATE, "Chooser", PByQ)
    monkeypatch.setattr(REQUEST, "verify", p_over_q)
    assert p_value(decoding.policies["chain"](length=2), 600) < 1e-9


def test_a_row_off_by_one_would_be_seen(monkeypatch):
    def parents_row(tree, tokens, choose):
        return verify.verify(tree, tokens, lambda row, depth: choose(max(row - 1, 0), depth))

    monkeypatch.setattr(REQUEST, "verify", parents_row)
    assert p_value(decoding.policies["chain"](length=2), 600) < 1e-9


def test_noise_that_ignores_the_position_would_be_seen(monkeypatch):
    monkeypatch.setattr(verify, "gumbel", lambda seed, position, size: gumbel(seed, 0, size))
    assert p_value(decoding.policies["chain"](length=2), 600) < 1e-9


def test_gumbel_noise_is_gumbels_and_keyed():
    noise = torch.cat([gumbel(seed, position, 100) for seed in range(10) for position in range(10)])
    assert noise.dtype == torch.float64
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3
    assert len(noise.unique()) == len(noise)
    assert torch.equal(gumbel(3, 4, 5), gumbel(3, 4, 5))
    assert not torch.equal(gumbel(3, 4, 5), gumbel(4, 3, 5))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_draw_is_the_argmax_of_logits_over_temperature_plus_noise(temperature):
    """Word by word: the distribution of texts hardly shows noise or a temperature that is off by a tenth."""
    logits = torch.randn(100, 20, generator=torch.Generator().manual_seed(3))
    draw = Chooser(temperature, 7)(logits, 5)
    for row in range(100):
        assert draw(row, row) == int((logits[row].double() / temperature + gumbel(7, 5 + row, 20)).argmax())


def test_verification_by_hand():
    tree = Tree((-1, -1, 0, 1, 1))
    tokens = [5, 6, 7, 7, 8]
    wanted = {0: 6, 2: 8, 5: 9}  # row -> the target's token
    assert verify.verify(tree, tokens, lambda row, depth: wanted[row]) == ([1, 4], 9)
    assert verify.verify(tree, tokens, lambda row, depth: 1) == ([], 1)
    assert verify.verify(Tree(()), [], lambda row, depth: 3) == ([], 3)
    depths = []
    verify.verify(tree, tokens, lambda row, depth: depths.append((row, depth)) or wanted[row])
    assert depths == [(0, 0), (2, 1), (5, 2)]
