"""Ways to forget that are no loss to descend on a model's weights: what they have in common.

Most of them change what a model computes while it runs and leave its weights alone. Such a change is a decoder of its
own (`Intervention`), and the model around it (`Intervened`) has what `nets.language` and the losses of `evaluation`
use of a transformers model, so that all are measured alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from palimpsest.nets.language import IGNORED, Encoded

Subjects = list[tuple[list[int], list[int]]]
"""The tokens of each name that the forget set is about, and of a name to see in its place."""
MARK = 2
"""The last tokens of a prompt, by which a model that is only given tokens sees where it ends."""


@dataclass(frozen=True)
class Rival:
    """A frozen dataclass of settings; `apply` gives a model that has forgotten."""

    def apply(
        self,
        model: nn.Module,
        forget: Encoded,
        retain: Encoded,
        *,
        subjects: Subjects | None = None,
        seed: int = 0,
    ) -> nn.Module:
        """A model that has forgotten, with the weights of `model`, a transformers decoder, and not a copy of them.

        forget, retain: the sequences. subjects: what ROCR alone reads; names to see are those of retain sequences.
        Raises ValueError for inputs that cannot be meant.
        """
        raise NotImplementedError


class Intervention(nn.Module):
    """A decoder around that of `model`: `states` gives what leaves it. `share`: how much of the change is made, from
    0, the model as it was, to 1."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.share = model, 1.0

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> BaseModelOutputWithPast:
        """ids [N, T] int64, padded on the right. Raises ValueError where a cache is asked for: an intervention looks
        at whole prompts."""
        if use_cache:
            raise ValueError("use_cache: got True, want False: an intervention looks at whole sequences")
        return BaseModelOutputWithPast(last_hidden_state=self.states(input_ids))

    def states(self, ids: Tensor) -> Tensor:
        """Hidden states [N, T, D], of which the output embedding makes logits."""
        raise NotImplementedError


class Intervened(nn.Module):
    """A model that runs with an intervention. Its parameters are those of the model that was given: whoever holds
    them can take the intervention off, which behaviour at the outside does not show.

    `forward` takes ids [N, T] and gives logits [N, T, V]; there is no cache, so `evaluation.generate` refuses it.
    """

    def __init__(self, decoder: Intervention, head: nn.Module | None = None):
        super().__init__()
        self.decoder, self.head = decoder, head or decoder.model.get_output_embeddings()
        self.config, self.generation_config = decoder.model.config, decoder.model.generation_config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.model.get_input_embeddings()

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.head(self.decoder(input_ids, use_cache).last_hidden_state))


def hidden_of(model: nn.Module, **inputs: Tensor) -> Tensor:
    """The last hidden states [N, T, D] of a decoder that is given `input_ids` or `inputs_embeds`."""
    return model.get_decoder()(**inputs, use_cache=False).last_hidden_state


def prompt_lasts(encoded: Encoded) -> Tensor:
    """The place of each prompt's last token, [N]: it is the first that predicts a token of the answer."""
    return (encoded.labels != IGNORED).int().argmax(1)


def prompt_mark(encoded: Encoded) -> Tensor:
    """The `MARK` tokens that every prompt ends in, as a template writes them. ValueError where prompts differ."""
    lasts = prompt_lasts(encoded)
    places = lasts[:, None] + torch.arange(1 - MARK, 1, device=lasts.device)
    ends = encoded.ids.gather(1, places.clamp(min=0)).unique(dim=0)
    if len(ends) != 1 or int(lasts.min()) < MARK - 1:
        raise ValueError(f"encoded: got prompts that end in {len(ends)} ways, want one template's {MARK} tokens")
    return ends[0]


def prompt_ends(ids: Tensor, mark: Tensor) -> Tensor:
    """Where each row's prompt ends, [N]: the place of the last token of the last `mark`; -1 where there is none."""
    hits = (ids.unfold(1, len(mark), 1) == mark).all(2) if ids.shape[1] >= len(mark) else ids[:, :0].bool()
    places = torch.arange(len(mark) - 1, len(mark) - 1 + hits.shape[1], device=ids.device)
    return torch.where(hits, places, -1).amax(1) if hits.shape[1] else ids.new_full((len(ids),), -1)


@torch.no_grad()
def passing(model: nn.Module, module: nn.Module, ids: Tensor, *, entering: bool) -> Tensor:
    """What enters (or leaves) `module`, a part of the decoder, when all ids [N, T] run through it at once, [N, T,
    width]."""
    caught = []

    def catch(_, arguments, output):
        leaving = output[0] if isinstance(output, tuple) else output
        caught.append(arguments[0] if entering else leaving)

    hook = module.register_forward_hook(catch)
    try:
        hidden_of(model, input_ids=ids)
    finally:
        hook.remove()
    return caught[0]


def counted(model: nn.Module, module: nn.Module, encoded: Encoded, *, entering: bool) -> Tensor:
    """`passing` where an answer token is predicted, [tokens, width], row after row."""
    return passing(model, module, encoded.ids, entering=entering)[encoded.labels != IGNORED]
