"""Small models and made-up ones for the decoding tests."""

import math
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import settings
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest import decoding

VOCABULARY = 50
PROMPT = [3, 14, 15, 9, 26, 5, 3, 14]
COUNT = 12

properties = settings(max_examples=30, deadline=None)


def llama(seed, *, dtype=torch.float32, layers=2, vocabulary=VOCABULARY, context=512, attention="sdpa", **options):
    """A random Llama with grouped heads, whose weights are large enough for its argmax to vary."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=context,
        attn_implementation=attention,
        **options,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return model.to(dtype)


def nearby(model, noise, seed=0):
    """A copy of `model` that often agrees with it."""
    generator = torch.Generator().manual_seed(seed)
    copy = type(model)(model.config).to(model.dtype).eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in copy.parameters():
            change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise * change.to(parameter.dtype))
    return copy


def small(config, **options):
    """A configuration of one narrow layer."""
    return config(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, **options)


@torch.no_grad()
def path_logits(model, tokens):
    """Logits [T, V] of a sequence in one forward, without any cache."""
    return model(torch.tensor([tokens])).logits[0]


def plain(model, prompt, count):
    """The greedy continuation, the whole text computed anew for every token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(path_logits(model, text)[-1].argmax()))
    return text[len(prompt) :]


def run(target, drafter, policy="sage", prompt=PROMPT, count=COUNT, **options):
    options = {"stop_tokens": ()} | options
    return decoding.generate(target, drafter, prompt, policy=policy, max_new_tokens=count, **options)


class Bigram(decoding.Decoder):
    """A target or drafter whose next token depends on the last one by a table of logits [V, V]: no model, fast."""

    def __init__(self, table):
        self.table = table
        self.vocabulary = len(table)
        self.context = None
        self.length = self.pending = self.offset = self.forwards = 0
        self.model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))

    def prefill(self, inputs):
        ids = decoding.models.token_ids(inputs)
        self.length, self.pending, self.forwards = len(ids), 0, 1
        return self.table[ids[-1]]

    def extend(self, tokens, depths, ancestors):
        assert tuple(ancestors.shape) == (len(tokens), self.pending + len(tokens))
        self.pending += len(tokens)
        self.forwards += 1
        return self.table[list(tokens)]

    def commit(self, rows):
        self.length, self.pending = self.length + len(rows), 0


def distribution(probs, tokens=None, k=10):
    """What a drafter that holds these probabilities would tell a policy."""
    probs = sorted(probs, reverse=True)
    total = sum(probs)
    probs = [p / total for p in probs]
    entropy = -sum(p * math.log(p) for p in probs if p > 0)
    tokens = list(range(len(probs))) if tokens is None else tokens
    return decoding.distributions.Distribution(tokens, probs, 1 - entropy / math.log(k), min(total, 1.0))


def random_tree(count, seed):
    generator = np.random.default_rng(seed)
    return decoding.Tree(tuple(int(generator.integers(-1, node)) for node in range(count)))


def tolerance(exact, rounded):
    """Tree and path round the same exact numbers, in different orders: their errors are alike in size. `rounded`
    are the path's logits in float32 and `exact` those in float64; the largest of so many errors varies by less than
    a factor of 4."""
    return 4 * (exact - rounded.double()).abs().max().item()
