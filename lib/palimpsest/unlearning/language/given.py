"""A language model of the reader's own as it is given, and what each use of it asks of the model alone."""

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from palimpsest.data import adapters
from palimpsest.data.folders import reading
from palimpsest.nets import language
from palimpsest.nets.caches import require_cached
from palimpsest.nets.chat import require_template
from palimpsest.pruning import Masks, Pattern
from palimpsest.pruning.decoder import decoder_layers, require_linear
from palimpsest.unlearning.language.lora import LoraSettings

MASKS = "masks.safetensors"


@dataclass(frozen=True, eq=False)
class Given:
    """A model, float32 and in evaluation mode; its tokenizer; `masks`, None where its folder has none; `dtypes`, by
    name in which dtype its file holds a tensor; `dtype`, in which it holds most."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    masks: Masks | None
    dtypes: dict[str, torch.dtype]
    dtype: torch.dtype

    @torch.no_grad()
    def round_(self) -> None:
        """To what the file can hold, in place; the dtype stays."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(parameter.to(self.dtypes.get(name, self.dtype)))

    def as_stored_(self) -> nn.Module:
        """The model, each of its tensors now in the dtype of its file."""
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.dtypes.get(name, self.dtype))
        return self.model


def read(name: str) -> Given:
    """The model of the folder or hub identifier `name`, of an adapter with it merged.

    Raises ValueError for what is no whole model with safetensors, and for masks of another model.
    """
    base, halves = adapters.base_of("model", name), (torch.bfloat16, torch.float16)
    with reading("model", base) as options:
        config = AutoConfig.from_pretrained(base, **options)
    dtype = config.dtype or config.get_text_config().dtype
    tokenizer = adapters.tokenizer_of("model", name)
    model = adapters.whole(AutoModelForCausalLM, "model", name, torch.float32)
    if dtypes := adapters.dtypes_of("model", name):
        dtype = Counter(dtypes.values()).most_common(1)[0][0]
    stored = Path(name) / MASKS
    masks = Masks.load(stored) if stored.exists() else None
    if masks is not None:
        masks.require_for(model)
    return Given(model, tokenizer, masks, dtypes, dtype if dtype in halves else torch.float32)


def require_measurable(given: Given) -> None:
    """ValueError unless answers of `given` can be encoded, rated and written: the template takes them, the logits are
    hidden states times an embedding, and the model writes on from a cache."""
    model = given.model
    decoder_layers(model)
    require_template(given.tokenizer)
    language.output_embedding(model)
    require_cached(model)


def require_prunable(given: Given, pattern: Pattern, pruner: str | None) -> None:
    """ValueError unless `pruner` (None: Wanda) can prune the decoder's layers to `pattern`."""
    require_linear(given.model)
    for layer in decoder_layers(given.model):
        for name, linear in layer.linears.items():
            try:
                pattern.require_fits(linear.weight.shape)
                if pruner in (None, "wanda"):
                    pattern.count(pattern.group or linear.weight.shape[1])
            except ValueError as error:
                raise ValueError(f"{error} of {name}") from error


def require_adaptable(given: Given, rank: int) -> None:
    """ValueError unless adapters of `rank` can be trained."""
    LoraSettings(rank)
    if find_spec("peft") is None:
        raise ValueError("lora: needs the package peft: pip install peft")
    require_linear(given.model)
