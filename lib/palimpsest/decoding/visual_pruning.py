"""A drafter that sees a part of the picture: fewer rows in its prefill and its cache, the target's text unchanged."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .cache import RowsCache
from .drafters import ModelDrafter
from .models import adapt
from .vision import VisionDecoder

RULES = ("attention", "uniform", "random")


class PrunedDrafter(ModelDrafter):
    """A vision-language drafter whose prefill leaves out a share of the prompt's visual tokens.

    Stated by SAGE (arXiv 2602.00523, section 5.1): the shares, 0.9 for video and 0.8 for pictures, in the drafter
    only. Stated by SpecVLM (arXiv 2508.16201), whose pruning SAGE builds on: the target's attention chooses one part
    of those that stay, the others lie evenly in space.

    Our reading: one rule at a time, so that each can be measured. "attention" keeps the tokens with the largest
    attention weight from the prompt's last token, the mean over `scorer`'s layers and heads, the earlier of equal
    ones. "uniform" takes them evenly in the order of the prompt, which for a picture is row by row. "random" is the
    control. Those that stay keep the positions they had, and the text behind the picture as well: `room` is that of
    the whole prompt.

    Cost: "attention" reads the prompt once more, in two forwards of `scorer` before the prefill, which count as the
    drafter's (SpecVLM has the target's weights from its prefill at hand). A share that drops no token costs nothing
    and gives the numbers of `ModelDrafter`.

    Args:
        model: a vision-language model of transformers or a `VisionDecoder`.
        share: of the visual tokens to leave out, in [0, 1). Of n tokens max(1, round((1 - share) · n)) stay.
        by: "attention", "uniform" or "random".
        seed: of the random choice, which is the same in every prompt with as many visual tokens.
        scorer: the model whose attention is asked; None takes the drafter itself. The target would be SpecVLM's.

    Raises:
        ValueError: a model without pictures, arguments out of range, a scorer with another rule than "attention";
            at the prefill by attention: a prompt that ends with a visual token.
    """

    def __init__(self, model, share: float, *, by: str = "attention", seed: int = 0, scorer=None):
        super().__init__(model)
        self._scorer = None if scorer is None else adapt(scorer)
        for name, decoder in (("model", self.decoder), ("scorer", self._scorer)):
            if decoder is not None and not isinstance(decoder, VisionDecoder):
                raise ValueError(f"{name}: got {type(decoder.model).__name__}, want a vision-language model")
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(f"share: got {share!r}, want a number in [0, 1)")
        if by not in RULES:
            raise ValueError(f"by: got {by!r}, want one of {', '.join(map(repr, RULES))}")
        if scorer is not None and by != "attention":
            raise ValueError(f"scorer: got one with by={by!r}, want None unless by is 'attention'")
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**64:
            raise ValueError(f"seed: got {seed!r}, want an integer from 0 to 2**64 - 1")
        self._share, self._by, self._seed = share, by, seed
        self._scorings = 0

    @property
    def forwards(self) -> int:
        return self.decoder.forwards + self._scorings

    @torch.inference_mode()
    def _read(self, inputs):
        decoder, arguments = self.decoder, self.decoder.prefill_inputs(inputs)
        visual = decoder.visual(arguments["input_ids"])
        count = int(visual.sum())
        keep = max(1, round((1 - self._share) * count))
        self._scorings = 0
        if keep >= count:
            decoder.begin(arguments)
            return
        kept = self._kept(inputs, arguments, count, keep)
        rows = ~visual
        rows[visual.nonzero()[kept, 0]] = True
        decoder.begin(_part(arguments, rows, kept))
        decoder.offset += count - keep

    def _kept(self, inputs, arguments, count, keep):
        """Numbers [keep] among the prompt's visual tokens, ascending, on the device of the prompt."""
        device = arguments["input_ids"].device
        if self._by == "uniform":  # the middles of `keep` equal stretches
            return (2 * torch.arange(keep, device=device) + 1) * count // (2 * keep)
        if self._by == "random":
            generator = torch.Generator().manual_seed(self._seed)
            return torch.randperm(count, generator=generator)[:keep].sort().values.to(device)
        if self._scorer is None:
            weights = attention_scores(self.decoder, arguments)
        else:
            weights = attention_scores(self._scorer, self._scorer.prefill_inputs(inputs)).to(device)
        self._scorings = 2
        return weights.argsort(descending=True, stable=True)[:keep].sort().values


def attention_scores(decoder: VisionDecoder, arguments: Mapping[str, Any]) -> Tensor:
    """How much the prompt's last token attends to each visual token: the mean weight over layers and heads.

    All tokens but the last go through with the model's own attention; only the last asks for the weights, so that
    no T × T matrix is ever held.

    Args:
        decoder: its model is used and its request left as it is.
        arguments: what `decoder.prefill_inputs` gave.

    Returns:
        float [number of visual tokens], not negative, with a sum below 1. `ValueError` if the last token is visual.
    """
    ids, positions = arguments["input_ids"], arguments["position_ids"]
    visual = decoder.visual(ids)
    if visual[-1]:
        raise ValueError("inputs: got a prompt that ends with a visual token, want text behind the picture")
    call = {"past_key_values": RowsCache(), "use_cache": True, "return_dict": True, "logits_to_keep": 1}
    decoder.model(**{**arguments, "input_ids": ids[:, :-1], "position_ids": positions[..., :-1]}, **call)
    with _weights_returned(decoder.model):
        last = {"input_ids": ids[:, -1:], "position_ids": positions[..., -1:]}
        attentions = decoder.model(**last, output_attentions=True, **call).attentions
    return torch.stack([layer[0, :, 0].mean(0) for layer in attentions]).mean(0)[visual]


@contextmanager
def _weights_returned(model) -> Iterator[None]:
    """sdpa gives no weights away: the language model's attention is "eager" meanwhile."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def _part(arguments, rows, kept):
    """The arguments for the prompt's `rows` alone, of whose visual tokens these are `kept`."""
    features = arguments["mm_encoder_outputs"]["image"].pooler_output[0][kept]
    return {
        "input_ids": arguments["input_ids"][:, rows],
        "position_ids": arguments["position_ids"][..., rows],
        "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=(features,))},
    }
