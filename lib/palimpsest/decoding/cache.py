"""Keys and values with room behind them: new rows are written there, and taking rows off copies nothing."""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

ROOM = 128
"""Rows allocated beyond those asked for: the tree of the coming round, and a hundred tokens or so."""


class RowsLayer(CacheLayerMixin):
    """One layer's rows [1, Hkv, S, Dh], of which the first `length` count."""

    def __init__(self):
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Write the new rows behind the others: [1, Hkv, T, Dh] twice -> views [1, Hkv, length + T, Dh] twice."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.keys.shape[2]:
            self.keys, self.values = (self._grown(x, first) for x in (self.keys, self.values))
        self.keys[:, :, first : self.length] = key_states
        self.values[:, :, first : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _grown(self, rows, used):
        """Half as much again and ROOM, so that the copies of a long text stay below three times its rows."""
        size = self.length + self.length // 2 + ROOM
        # Zeros, since a masked row counts as 0 * value: not so where the memory happens to hold NaN.
        grown = rows.new_zeros(*rows.shape[:2], size, rows.shape[3])
        grown[:, :, :used] = rows[:, :, :used]
        return grown

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class RowsCache(Cache):
    """The layers of one model. `crop` sets the length of each, whose rows beyond it are written over."""

    def __init__(self):
        super().__init__(layer_class_to_replicate=RowsLayer)

    def crop(self, length: int) -> None:
        for layer in self.layers:
            layer.length = length
