"""Several requests of one model, their rows side by side in one cache, each with its own length."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from palimpsest import kernels

from .cache import ROOM, RowsLayer
from .models import Decoder


class BatchLayer(RowsLayer):
    """One layer's rows [B, Hkv, S, Dh]; request b's committed ones are the first lengths[b].

    lengths: one list for all layers.
    """

    def __init__(self, alone: Sequence[RowsLayer], lengths: list[int]):
        super().__init__()
        self.lengths = lengths
        self.is_initialized = True
        self.keys, self.values = (
            self._stacked([getattr(layer, name)[:, :, : layer.length] for layer in alone])
            for name in ("keys", "values")
        )

    def _stacked(self, alone):
        heads, width = alone[0].shape[1], alone[0].shape[3]
        rows = alone[0].new_zeros(len(alone), heads, max(self.lengths) + ROOM, width)
        for i, one in enumerate(alone):
            rows[i, :, : one.shape[2]] = one[0]
        return rows

    def update(self, key_states, value_states, *args, **kwargs):
        """Write request b's T new rows behind its lengths[b]; the views reach to the longest's last."""
        count, longest = key_states.shape[2], max(self.lengths)
        self.length = longest + count
        if self.length > self.keys.shape[2]:
            self.keys, self.values = (self._grown(x, self.keys.shape[2]) for x in (self.keys, self.values))
        for i, first in enumerate(self.lengths):
            self.keys[i, :, first : first + count] = key_states[i]
            self.values[i, :, first : first + count] = value_states[i]
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class Batch:
    """Decoders of one model, each with its prompt in it, that verify together from now on.

    decoders: their caches are taken over; they keep their lengths and positions.
    """

    def __init__(self, decoders: Sequence[Decoder]):
        self.decoders = list(decoders)
        self._lengths = [decoder.length for decoder in decoders]
        alone = zip(*(decoder.rows() for decoder in decoders), strict=True)
        self._cache = Cache(layers=[BatchLayer(layers, self._lengths) for layers in alone])

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these requests only."""
        self.decoders = [self.decoders[place] for place in places]
        self._lengths[:] = [decoder.length for decoder in self.decoders]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[list(places)], layer.values[list(places)]

    def extend(self, proposals: Sequence[tuple[list[int], list[int], np.ndarray]]) -> list[Tensor]:
        """Each request's tokens, depths and ancestors, as for `Decoder.extend` -> logits [T_b, V] each; one forward.

        Shorter requests are padded with rows that see the committed ones only and are dropped from the result.
        """
        model = self.decoders[0].model
        device, dtype = model.device, model.dtype
        count = max(len(tokens) for tokens, _, _ in proposals)
        ids = torch.zeros(len(proposals), count, dtype=torch.int64, device=device)
        mask = torch.full(
            (len(proposals), 1, count, max(self._lengths) + count), torch.finfo(dtype).min, dtype=dtype, device=device
        )
        positions = []
        for i, ((tokens, depths, ancestors), decoder) in enumerate(zip(proposals, self.decoders, strict=True)):
            rows, first = len(tokens), decoder.length
            ids[i, :rows] = torch.tensor(tokens, device=device)
            mask[i, 0, :, :first] = 0
            mask[i, 0, :rows, first : first + rows].masked_fill_(torch.as_tensor(ancestors, device=device), 0)
            positions.append(decoder.positions(torch.tensor(depths + [0] * (count - rows), device=device)))
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.cat(positions, dim=-2),
            past_key_values=self._cache,
            use_cache=True,
            return_dict=True,
        ).logits
        return [logits[i, : len(tokens)] for i, (tokens, _, _) in enumerate(proposals)]

    def commit(self, rows: Sequence[Sequence[int]]) -> None:
        """Of each request the rows of the last `extend` to keep, strictly increasing from 0."""
        longest = max(map(len, rows))
        paths = torch.tensor([[*path, *[-1] * (longest - len(path))] for path in rows])
        layers = self._cache.layers
        lengths = kernels.cache_commit(
            [layer.keys for layer in layers],
            [layer.values for layer in layers],
            paths,
            torch.tensor(self._lengths),
        )
        self._lengths[:] = lengths.tolist()
        for decoder, length in zip(self.decoders, self._lengths, strict=True):
            decoder.length = length
