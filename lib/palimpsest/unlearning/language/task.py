"""What an objective sees: a model, its data, the tensors that move, and the few operations objectives are made of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.training import seeds
from palimpsest.training.seeds import epoch_order

Gradients = dict[str, Tensor]
"""By name of the parameter; those that a loss does not reach are left out."""


@dataclass(frozen=True)
class Batch:
    """The rows `rows` [B] of a set, without the columns after their last label, on which nothing depends."""

    rows: Tensor
    encoded: Encoded

    @property
    def counted(self) -> Tensor:
        """Which positions predict an answer token, bool [B, T]."""
        return self.encoded.labels != IGNORED


class Task:
    """A model that shall forget.

    Attributes:
        model: a transformers decoder, in evaluation mode.
        forget, retain: the sequences to forget and to keep; idk: for each forget sequence an answer to prefer, or
            None.
        parameters: the tensors that move, by name.
        kept: of those that are pruned, which entries survive, bool of their shapes.
        seed, epochs, batch_size: every random choice is a function of the seed and the epoch.
        cache: tensors that an objective computes in `begin` from the model as it was given.
        noted: values of the update under way; log: a row per update, "epoch", "step" and what was noted.
        tokens_forward, tokens_backward: positions passed so far, those of prompts included: the measure of work.
    """

    def __init__(
        self,
        model: nn.Module,
        forget: Encoded,
        retain: Encoded,
        idk: Encoded | None = None,
        *,
        parameters: dict[str, Tensor],
        kept: dict[str, Tensor],
        seed: int = 0,
        epochs: int = 1,
        batch_size: int = 32,
    ):
        self.model, self.forget, self.retain, self.idk = model, forget, retain, idk
        self.parameters, self.kept = parameters, kept
        self.seed, self.epochs, self.batch_size = seed, epochs, batch_size
        self.cache: dict[str, Tensor] = {}
        self.log: list[dict] = []
        self.tokens_forward = self.tokens_backward = 0
        self._recorded = 0  # positions in the graph that the next `gradients` goes back through
        self.noted: dict[str, float] = {}

    def generator(self, *purpose: str | int) -> torch.Generator:
        """The random numbers for one purpose (`seeds.generator`)."""
        return seeds.generator(self.seed, "unlearning", *purpose)

    # -- data ----------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Updates in an epoch: one pass over the forget set."""
        return math.ceil(len(self.forget) / self.batch_size)

    def batch(self, encoded: Encoded, rows: Tensor) -> Batch:
        part = encoded.subset(rows.to(encoded.ids.device))
        width = int((part.labels != IGNORED).any(0).nonzero().max()) + 1
        return Batch(rows, Encoded(part.ids[:, :width], part.labels[:, :width]))

    def whole(self, encoded: Encoded) -> Iterator[Batch]:
        """All rows in order, batch by batch."""
        for rows in torch.arange(len(encoded)).split(self.batch_size):
            yield self.batch(encoded, rows)

    def retain_rows(self, epoch: int) -> Tensor:
        """As many retain rows as there are forget rows. Rows recur only after all others had their turn."""
        draws, rows = len(self.forget), len(self.retain)
        first = epoch * draws
        turns = range(first // rows, (first + draws - 1) // rows + 1)
        order = torch.cat([torch.randperm(rows, generator=self.generator("retain", turn)) for turn in turns])
        return order[first % rows :][:draws]

    @property
    def drawn(self) -> Tensor:
        """The retain rows that the run will draw, in order: a large set whole would not fit into `cache`."""
        return torch.cat([self.retain_rows(epoch) for epoch in range(self.epochs)]).unique()

    def batches(self, epoch: int) -> Iterator[tuple[Batch, Batch]]:
        """(forget, retain) of each update: once over the forget set, as many retain rows beside it."""
        orders = epoch_order(len(self.forget), self.seed, epoch), self.retain_rows(epoch)
        for forget, retain in zip(*(order.tensor_split(self.steps) for order in orders), strict=True):
            yield self.batch(self.forget, forget), self.batch(self.retain, retain)

    # -- passes --------------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch) -> Tensor:
        """ln p of each answer token, [B, T] in nats, 0 elsewhere."""
        self._count(batch)
        return language.logprobs(self.model, batch.encoded)

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's last hidden states [B, T, D]."""
        self._count(batch)
        return language.hidden(self.model, batch.encoded.ids)

    @torch.no_grad()
    def sequence_logprobs(self, encoded: Encoded) -> Tensor:
        """ln p of each whole answer, [N], of the model as it is now."""
        return torch.cat([self.logprobs(batch).sum(1) for batch in self.whole(encoded)])

    def gradients(self, loss: Tensor) -> Gradients:
        """d loss / d parameter."""
        self.tokens_backward += self._recorded
        self._recorded = 0
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(self.parameters, found, strict=True) if g is not None}

    def masked(self, gradients: Gradients) -> Gradients:
        """0 where an entry is pruned."""
        return {name: g * self.kept[name] if name in self.kept else g for name, g in gradients.items()}

    def _count(self, batch: Batch) -> None:
        self.tokens_forward += batch.encoded.ids.numel()
        if torch.is_grad_enabled():
            self._recorded += batch.encoded.ids.numel()

    # -- log -----------------------------------------------------------------------------------------------------

    def note(self, **values: Tensor | float) -> None:
        """Values of the update under way, for its row in the log."""
        self.noted |= {name: value.item() if isinstance(value, Tensor) else value for name, value in values.items()}

    def record(self, epoch: int) -> None:
        """Append the row of the update under way."""
        self.log.append({"epoch": epoch, "step": len(self.log), **self.noted})
        self.noted = {}
