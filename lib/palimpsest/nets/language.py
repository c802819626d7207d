"""Small language models: a Llama of our own, and log-probabilities of answers.

Import it as `from palimpsest.nets import language`; `nets` itself does not, because transformers is slow to import.
All but `tokenizer` and `small_llama` work on the Llama, Qwen2 and Gemma classes of transformers.
"""

import math
import sys
from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.kernels import token_logprob

from .tokens import IGNORED, Encoded, answer_end, encode, prompt_ids, tokenizer

LARGE = 50.0
"""The largest logit of the probe: the caps in use, 30 and 50, bend it."""
PROBED: WeakSet[nn.Module] = WeakSet()
"""Models whose logits were compared."""


def small_llama(
    vocab_size: int, seed: int, *, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int
) -> LlamaForCausalLM:
    """A Llama in float32 with tied embeddings, for the tokens of `tokenizer`.

    Matrices are drawn from N(0, .02²), those that write into the residual stream from N(0, .02² / (2 layers)), as
    Radford et al. 2019 scale them (section 2.3); norms are 1. The weights depend on the sizes and the seed only, and
    the global generator is left as it was. Raises ValueError when `heads` does not divide `hidden`, or `kv_heads`
    `heads`.
    """
    for name, whole, part in (("heads", hidden, heads), ("kv_heads", heads, kv_heads)):
        if part < 1 or whole % part:
            raise ValueError(f"{name}: got {part}, want a divisor of {whole}")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws weights of its own
        model = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0, 0.02 / (math.sqrt(2 * layers) if writes else 1), generator=generator)
    return model


def hidden(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The decoder's last hidden states [N, T, D], final norm included, for ids [N, T] int64 padded on the right."""
    return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def context(model: nn.Module) -> int:
    """How many tokens fit into the model; for one without such a limit, more than there will ever be."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def output_embedding(model: nn.Module) -> torch.Tensor:
    """The weight [V, D] whose products with `hidden` are the model's logits.

    Raises ValueError for a model that changes them afterwards, by a bias, a scale or a soft cap, or changes the
    hidden states before: the first call compares with the model's own logits.
    """
    head = model.get_output_embeddings()
    plain = head is not None and getattr(head, "bias", None) is None
    if plain and model not in PROBED:
        plain = _plain(model, head)
        if plain:
            PROBED.add(model)
    if plain is False:
        kind = type(model).__name__
        raise ValueError(f"model: got a {kind}, want one whose logits are hidden states times an embedding alone")
    return head.weight


@torch.no_grad()
def _plain(model: nn.Module, head: nn.Module) -> bool | None:
    """Whether what enters the output embedding is what the decoder gave, and what leaves it are the logits; None
    where they are not finite, and so do not show it: operations refuse them by themselves.

    The embedding is given random states instead, so large that a soft cap shows whatever the weights are.
    """
    weight, given, entered = head.weight, [], []
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 1, weight.shape[1], generator=generator, dtype=torch.float64).to(weight)
    largest = F.linear(states, weight).abs().max()
    states = states * (LARGE / largest) if largest > 0 else states

    def enter(_, arguments):
        entered.append(arguments[0])
        return (states, *arguments[1:])

    hooks = [
        model.get_decoder().register_forward_hook(lambda _, __, output: given.append(output[0])),
        head.register_forward_pre_hook(enter),
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        logits = model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=weight.device), use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if len(entered) != 1 or logits.shape != (1, 1, len(weight)):
        return False
    if not (largest.isfinite() and entered[0].isfinite().all()):
        return None
    # A part of a model (`nets.part`) is called whole, past its own decoder, and gives nothing here.
    rounding = 4 * LARGE * max(torch.finfo(weight.dtype).eps, 1e-3)
    return all(torch.equal(one, entered[0]) for one in given) and bool(
        (logits - F.linear(states, weight)).abs().max() <= rounding
    )


def logprobs(model: nn.Module, encoded: Encoded) -> torch.Tensor:
    """ln p(labels[n, t] | ids[n, : t + 1]) in nats, [N, T] float32 (float64 for such a model), 0 where the label is
    IGNORED. Differentiable in the model's parameters; without the [N, T, V] logits (`kernels.token_logprob`)."""
    counted = encoded.labels != IGNORED
    values = token_logprob(hidden(model, encoded.ids)[counted], output_embedding(model), encoded.labels[counted])
    return values.new_zeros(encoded.labels.shape).masked_scatter(counted, values)


__all__ = [
    "IGNORED",
    "Encoded",
    "answer_end",
    "context",
    "encode",
    "hidden",
    "logprobs",
    "output_embedding",
    "prompt_ids",
    "small_llama",
    "tokenizer",
]
