"""A few consecutive layers of a decoder as a model of their own, and memory for what the layers below give them.

Where only the last layers of a language model are trained, all layers below compute the same numbers at every step.
`Part` runs the layers that train; `Remembered` computes their inputs once per sequence.
"""

import copy

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """Layers `first` to `last` − 1 (counted from 0) of `whole`, a decoder of transformers, sharing its parameters,
    which keep their names under `whole.`.

    `nets.language`, `pruning` and `unlearning.language` take it as a decoder with these layers only: what they prune
    or move lies in them. `inputs(ids [N, T]) -> [N, T, D]` gives the hidden states that enter the first of them; None
    is the embedding. Without the top layer the decoder's last norm is left out. A call of the model, as in greedy
    decoding, runs `whole`. Raises ValueError for layers that `whole` has not.
    """

    def __init__(self, whole: nn.Module, first: int, last: int, inputs: nn.Module | None = None):
        super().__init__()
        layers = whole.get_decoder().layers
        if not 0 <= first < last <= len(layers):
            raise ValueError(f"first, last: got {first} and {last}, want 0 <= first < last <= {len(layers)}")
        self.whole, self.config, self.generation_config = whole, whole.config, whole.generation_config
        decoder = copy.copy(whole.get_decoder())
        decoder._modules = dict(decoder._modules)  # a shallow copy shares the table of modules
        decoder.config = copy.deepcopy(decoder.config)
        decoder.config.num_hidden_layers = last - first
        decoder.layers = nn.ModuleList(layers[first:last])
        if last < len(layers):
            decoder.norm = nn.Identity()
        if inputs is not None:
            decoder.embed_tokens = inputs
        self._decoder = (decoder,)  # in a tuple, because its parameters are registered under `whole`

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def get_decoder(self) -> nn.Module:
        return self._decoder[0]

    def get_input_embeddings(self) -> nn.Module:
        return self.whole.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.whole.get_output_embeddings()

    def forward(self, *arguments, **options):
        return self.whole(*arguments, **options)


class Remembered(nn.Module):
    """ids [N, T] int64 -> what `below`, a decoder whose weights do not move, makes of them, [N, T, D].

    Each row is computed once and alone, so that its bits depend on no other row. Rows are padded on the right with
    `pad`; attention is causal, and positions from the second of the closing pads on are 0.
    """

    def __init__(self, below: nn.Module, pad: int):
        super().__init__()
        self._below, self.pad, self._known = (below,), pad, {}

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        rows = [self._row(row, ids.device) for row in ids.tolist()]
        found = rows[0].new_zeros(*ids.shape, rows[0].shape[1])
        for place, row in zip(found, rows, strict=True):
            place[: len(row)] = row[: len(place)]
        return found

    def _row(self, row: list[int], device: torch.device) -> Tensor:
        length = len(row)
        while length and row[length - 1] == self.pad:
            length -= 1
        key = tuple(row[:length])
        if key not in self._known:
            # With one pad: it may be the end of a text, which a decoder of full rows does see.
            ids = torch.tensor([[*key, self.pad]], device=device)
            below = self._below[0].get_decoder()
            self._known[key] = below(input_ids=ids, use_cache=False).last_hidden_state[0]
        return self._known[key]
