"""Decoders whose forwards are compiled: for models so small that Python takes longer than their arithmetic."""

import torch

from .cache import RowsLayer
from .models import Decoder
from .vision import LlavaOnevisionDecoder

ROWS = 256
"""Rows of the cache to begin with; a power of two, as are all sizes that a compiled forward meets."""


class FixedLayer(RowsLayer):
    """One layer's rows in memory of one size: `update` gives all of it, and the mask says what counts."""

    def __init__(self, written: RowsLayer, rows: int):
        super().__init__()
        self.length, self.is_initialized = written.length, True
        self.keys, self.values = (self._fixed(x, rows) for x in (written.keys, written.values))

    def _fixed(self, written, rows):
        # Zeros, since a masked row counts as 0 * value: not so where the memory happens to hold NaN.
        fixed = written.new_zeros(*written.shape[:2], rows, written.shape[3])
        fixed[:, :, : self.length] = written[:, :, : self.length]
        return fixed

    def update(self, key_states, value_states, *args, **kwargs):
        """Write [1, Hkv, T, Dh] twice at `places`, int64 [T] -> all rows twice."""
        self.keys.index_copy_(2, self.places, key_states)
        self.values.index_copy_(2, self.places, value_states)
        return self.keys, self.values


class Compiled(Decoder):
    """Put before a kind of `Decoder` whose logits are its output layer's of its text model's last hidden states.

    Rows are padded to a power of two and so is the cache, so that few shapes come; each is compiled by torch.compile
    when it first does, which takes a minute or so. Its last bits are not those of the model as it is.
    """

    def __init__(self, model):
        super().__init__(model)
        self._forward = torch.compile(self._padded, dynamic=False)

    @torch.inference_mode()
    def begin(self, arguments):
        logits = super().begin(arguments)
        self._rows = 0
        return logits

    @torch.inference_mode()
    def extend(self, tokens, depths, ancestors):
        count, first = len(tokens), self.length + self.pending
        size, layers = _power(count), self._cache.layers
        if first + size > self._rows:
            self._rows = max(ROWS, _power(first + size))
            for layer in layers:
                layer.length = first
            layers[:] = [FixedLayer(layer, self._rows) for layer in layers]
        mask = torch.full((size, self._rows), self._hidden, dtype=self.model.dtype)
        mask[:, : self.length] = 0
        mask[:count, self.length : first + count].masked_fill_(torch.as_tensor(ancestors), 0)
        device, padding = self.model.device, [0] * (size - count)
        logits = self._forward(
            torch.tensor([[*tokens, *padding]], device=device),
            mask[None, None].to(device),
            self.positions(torch.tensor([*depths, *padding], device=device)),
            torch.arange(first, first + size, device=device),
        )
        self.forwards += 1
        self.pending += count
        return logits[0, :count]

    def _padded(self, ids, mask, positions, places):
        for layer in self._cache.layers:
            layer.places = places
        body = self.model.get_decoder()
        out = body(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache)
        return self.model.get_output_embeddings()(out.last_hidden_state)


class CompiledDecoder(Compiled):
    """Of text models. Not of those that cap or scale their logits (Gemma 2, Granite, Cohere)."""


class CompiledLlavaOnevisionDecoder(Compiled, LlavaOnevisionDecoder):
    """Its prefill, which sees the picture, is not compiled."""


def _power(count: int) -> int:
    """The least power of two from `count` on."""
    return 1 << (count - 1).bit_length()
