"""A transformers causal model as tree decoding needs it: rows appended under any ancestor mask, kept by choice."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palimpsest import kernels

from .cache import RowsCache, RowsLayer

ADAPTERS: dict[str, type["Decoder"]] = {}
"""`config.model_type` -> the subclass of `Decoder` for such models; others are taken for text models."""

MASKED_ATTENTION = ("sdpa", "eager")
"""The attention implementations that take a mask as it is. sdpa is the faster, and keeps float64 (eager's softmax
is float32 whatever the model's dtype)."""

ATTENTIONS = ("full_attention", "sliding_attention", "chunked_attention")
"""The kinds of layers that take a mask as it is. The last two are the first as long as a text fits their window."""


def adapt(model) -> "Decoder":
    """`model` if it is a Decoder already, else the Decoder that suits its class. `ValueError`: see `Decoder`."""
    if isinstance(model, Decoder):
        return model
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return ADAPTERS.get(model_type, Decoder)(model)


def token_ids(inputs) -> list[int]:
    """The prompt of a request: a sequence of integers, a tensor [n] or [1, n], or a mapping with "input_ids"."""
    ids = inputs["input_ids"] if isinstance(inputs, Mapping) and "input_ids" in inputs else inputs
    if isinstance(ids, Mapping):
        raise ValueError(f"inputs: got a mapping of {sorted(ids)}, want 'input_ids' among its keys")
    try:
        ids = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:  # text, or lists of different lengths
        raise ValueError(f"inputs: got {type(ids).__name__}, want token numbers [n] or [1, n]: {error}") from error
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool or not len(ids):
        raise ValueError(
            f"inputs: got {ids.dtype} of shape {list(ids.shape)}, want token numbers [n] or [1, n], n ≥ 1"
        )
    return ids.tolist()


class Decoder:
    """One request in a causal language model of transformers, with its cache.

    Rows are tokens in the cache. `prefill` commits the prompt's; `extend` adds rows that count only once `commit`
    keeps them. Numbers: tree logits equal path logits up to rounding (measured on small models: 2e-7 in float32).

    model: on any device, any dtype, in eval mode, its attention "sdpa" or "eager".

    A model whose layers look back through a window is taken for texts no longer than the window: what it sees is
    then a matter of ancestors alone.

    Raises `ValueError` for an encoder-decoder, a model that is not causal or does not generate, recurrent or other
    layers without a mask, positions that are not given but counted by rows (ALiBi), another attention
    implementation, and a vision model without an adapter.

    A subclass adapts a class of models by `prefill_inputs`, `position_offset` and `positions`.
    """

    inputs_taken: tuple[str, ...] = ("input_ids", "attention_mask")
    """Keys of a mapping given as `inputs`; any other is refused."""
    window: int | None = None
    """Most rows whose numbers do not change with the length of the text; None without such a limit."""

    def __init__(self, model):
        config = _checked(model, vision=type(self) is not Decoder)
        self.model = model
        self.vocabulary: int = config.vocab_size
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.window = _window(config)
        self.length = 0
        """Committed rows in the cache."""
        self.pending = 0
        """Rows behind them that wait for `commit`."""
        self.offset = 0
        """Position of the row behind the committed ones, less `length`."""
        self.forwards = 0
        """Calls of the model since the request began, the prefill among them."""
        self._cache = RowsCache()
        self._hidden = torch.finfo(model.dtype).min
        # With both given, the model need not look for them in its configuration at each call.
        self._call = {"use_cache": True, "return_dict": True}

    def prefill_inputs(self, inputs) -> dict[str, Any]:
        """The model's arguments for the prompt. `ValueError` for keys not taken, padding, or too large numbers."""
        if isinstance(inputs, Mapping):
            if unknown := sorted(set(inputs) - set(self.inputs_taken)):
                raise ValueError(
                    f"inputs: got {unknown[0]!r}, want of {type(self.model).__name__}: {self.inputs_taken}"
                )
            if not torch.as_tensor(inputs.get("attention_mask", 1)).bool().all():
                raise ValueError("inputs: attention_mask hides tokens, want a prompt without padding")
        ids = token_ids(inputs)
        if not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ValueError(f"inputs: got tokens {min(ids)} to {max(ids)}, want 0 to {self.vocabulary - 1}")
        for name, limit in (("context", self.context), ("attention window", self.window)):
            if limit is not None and len(ids) > limit:
                raise ValueError(f"inputs: got {len(ids)} tokens, want at most {limit}, the model's {name}")
        return {"input_ids": torch.tensor([ids], device=self.model.device)}

    def position_offset(self) -> int:
        """Asked after the prefill's forward: the next token's position less the rows in the cache."""
        return 0

    def positions(self, depths: Tensor) -> Tensor:
        """Depths [T] int64, 0 for the token right behind the committed ones -> the model's position_ids, [1, T]."""
        return depths[None] + (self.length + self.offset)

    def rows(self) -> list[RowsLayer]:
        """The layers of the cache."""
        return self._cache.layers

    def room(self) -> int | None:
        """How many tokens may follow the committed rows; None where the model names no limit."""
        positions = None if self.context is None else self.context - self.length - self.offset
        rows = None if self.window is None else self.window - self.length
        return min((left for left in (positions, rows) if left is not None), default=None)

    @torch.inference_mode()
    def prefill(self, inputs) -> Tensor:
        """Start a request: commit its prompt. Returns the logits [V] of its last token."""
        return self.begin(self.prefill_inputs(inputs))

    @torch.inference_mode()
    def begin(self, arguments: Mapping[str, Any]) -> Tensor:
        """`prefill` of arguments such as `prefill_inputs` has just given, the same or a part of their rows."""
        self._cache, self.pending, self.offset = RowsCache(), 0, 0
        out = self.model(**arguments, past_key_values=self._cache, logits_to_keep=1, **self._call)
        self.forwards = 1
        self.length = self._cache.get_seq_length()
        self.offset = self.position_offset()
        return out.logits[0, -1]

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int], depths: Sequence[int], ancestors: np.ndarray | Tensor) -> Tensor:
        """Append rows and return their logits [T, V]; one forward.

        Args:
            tokens: T token numbers.
            depths: T distances from the first uncommitted token, which has 0.
            ancestors: [T, pending + T] bool: which uncommitted rows, the new ones last, a row attends to; itself
                always. Committed rows are seen by all.

        Raises:
            ValueError: these do not fit each other.
        """
        count = len(tokens)
        if len(depths) != count or tuple(ancestors.shape) != (count, self.pending + count):
            raise ValueError(
                f"ancestors: got shape {list(ancestors.shape)} with {count} tokens and {len(depths)} depths, "
                f"want [{count}, {self.pending} pending + {count}]"
            )
        device = self.model.device
        mask = torch.zeros(count, self.length + self.pending + count, dtype=self.model.dtype, device=device)
        hidden = torch.as_tensor(ancestors, device=device).logical_not()
        mask[:, self.length :].masked_fill_(hidden, self._hidden)
        out = self.model(
            input_ids=torch.tensor([tokens], device=device),
            attention_mask=mask[None, None],  # four-dimensional and additive: used as it is
            position_ids=self.positions(torch.tensor(depths, device=device)),
            past_key_values=self._cache,
            **self._call,
        )
        self.forwards += 1
        self.pending += count
        return out.logits[0]

    @torch.inference_mode()
    def commit(self, rows: Sequence[int]) -> None:
        """Keep these of the uncommitted rows, numbered from 0 over all `extend` calls, and drop the others.

        rows: strictly increasing, each below `pending`; their depths 0, 1, 2, …, so that positions stay true.
        """
        if rows and rows[-1] >= self.pending:
            raise ValueError(f"rows: got {list(rows)}, want rows below the {self.pending} that are pending")
        if list(rows) == list(range(len(rows))):  # they lie where they belong: a chain, or plain decoding
            self.length += len(rows)
        else:
            layers = self._cache.layers
            self.length = kernels.cache_commit(
                [layer.keys for layer in layers], [layer.values for layer in layers], list(rows), self.length
            )
        self._cache.crop(self.length)
        self.pending = 0


def _checked(model, vision):
    """The text configuration of `model`, or `ValueError` saying why tree decoding cannot use it."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ValueError(f"model: got {name}, want a causal language model of transformers")
    if config.is_encoder_decoder:
        raise ValueError(f"model: got {name}, an encoder-decoder; want a decoder-only model")
    if getattr(config, "vision_config", None) is not None and not vision:
        raise ValueError(f"model: got {name}, a vision model without an adapter; want one of {sorted(ADAPTERS)}")
    if not model.can_generate():
        raise ValueError(f"model: got {name}, which has no language-model head; want a causal language model")
    decoder = model.get_decoder()
    if any(getattr(module, "is_causal", True) is False for module in decoder.modules()):
        raise ValueError(f"model: got {name} with attention to both sides; want a causal language model")
    text = config.get_text_config()
    # GPT-Neo's "local" layers count rows, and those of a tree are more than its positions.
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or ()
    if other := sorted(set(kinds) - {"global", *ATTENTIONS}):
        raise ValueError(f"model: got {name} with {other} layers; want attention under a mask in all")
    taken = inspect.signature(type(decoder).forward).parameters
    if not {"position_ids", "past_key_values"} <= set(taken) or getattr(text, "alibi", False):
        raise ValueError(f"model: got {name}, which places tokens by itself; want one that takes positions")
    implementation = text._attn_implementation
    if implementation not in MASKED_ATTENTION:
        raise ValueError(f"model: got attention {implementation!r}, want one of {', '.join(MASKED_ATTENTION)}")
    return text


def _window(text):
    """The longest text, in rows, whose every token sees all before it and turns by the same frequencies."""
    kinds, rope = getattr(text, "layer_types", None), getattr(text, "rope_parameters", None) or {}
    limits = []
    if kinds is None or "sliding_attention" in kinds:
        limits.append(getattr(text, "sliding_window", None))
    if kinds is not None and "chunked_attention" in kinds:
        limits.append(text.attention_chunk_size)
    for one in (rope, *(one for one in rope.values() if isinstance(one, Mapping))):
        # Beyond this length other frequencies apply, to the rows of a whole forward: a tree would cross it early.
        if one.get("rope_type") == "longrope":
            limits.append(one["original_max_position_embeddings"])
    return min((limit for limit in limits if limit is not None), default=None)
