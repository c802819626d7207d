"""RMU: representation misdirection for unlearning (Li et al. 2024, WMDP, arXiv 2403.03218)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.checks import require_number
from palimpsest.nets import language
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language.method import Objective
from palimpsest.unlearning.language.task import Batch, Task


@dataclass(frozen=True)
class RMU(Objective):
    r"""‖h − c·u‖²/D on forget sequences, + α·‖h − h_ref‖²/D on retain ones: h [D] what `layer`, the number of a layer
    (from 0) or the name of a module, writes at a position that predicts an answer token (the prompt's last among
    them, the answer's last not), h_ref the same of the model as it was given, u a random direction of length 1.
    Mean over an answer's positions, then over sequences.

    Stated by the paper: both losses, u drawn uniformly from [0, 1)^D and normalised, layer 7 of Zephyr-7B, layers 5
    to 7 trained. Its code: of these the down projections, `Update(moving=r".*\.[567]\.mlp\.down_proj\.weight")`.
    open-unlearning for TOFU: layer 7 of 16, c = 2, γ = α = 1, all parameters trained. Our reading: where `layer` is
    None, the layer at the same depth, ⌊7/16 of their number⌋. open-unlearning takes the answer tokens' own positions,
    and divides its sums [B] by its counts [B, 1], a table of all pairs: so its loss is the mean of the sums times the
    mean of 1/count, where ours divides each sum by its own count.
    """

    steering: float = 2.0
    layer: int | str | None = None

    def __post_init__(self):
        super().__post_init__()
        require_number("steering", self.steering)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int | str | None):
            raise ValueError(f"layer: got {self.layer!r}, want a layer's number, a module's name, or None")

    def steered(self, model: nn.Module) -> nn.Module:
        """The module whose output is steered. Raises ValueError where the model has none such."""
        layers = decoder_layers(model)
        layer = 7 * len(layers) // 16 if self.layer is None else self.layer
        if isinstance(layer, str):
            found = dict(model.named_modules()).get(layer)
            if found is None:
                raise ValueError(f"layer: got {layer!r}, want the name of a module, such as {layers[-1].name!r}")
            return found
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer: got {layer}, want 0 to {len(layers) - 1}")
        return layers[layer].module

    def require_reach(self, model: nn.Module, parameters: dict[str, Tensor]) -> None:
        """ValueError unless a parameter of these has a part in what is steered; one token is passed."""
        ids = torch.zeros(1, 1, dtype=torch.int64, device=next(iter(parameters.values())).device)
        with torch.enable_grad():
            written = self._written(model, lambda: language.hidden(model, ids), ids)
            reached = written.requires_grad and any(
                g is not None
                for g in torch.autograd.grad(written.sum(), list(parameters.values()), allow_unused=True)
            )
        if not reached:
            at = next(name for name, module in model.named_modules() if module is self.steered(model))
            raise ValueError(
                f"update: RMU steers {at}, in which none of the {len(parameters)} parameters that move has a part; "
                "want one that has"
            )

    def begin(self, task: Task) -> None:
        self.require_reach(task.model, task.parameters)
        for part in task.drawn.split(task.batch_size):
            batch = task.batch(task.retain, part)
            with torch.no_grad():
                written = self.activations(task, batch)
            for row, own, counted in zip(part.tolist(), written, batch.counted, strict=True):
                task.cache[f"written.{row}"] = own[counted]
        direction = torch.rand(written.shape[2], generator=task.generator("direction"), dtype=torch.float64)
        task.cache["target"] = (self.steering * direction / direction.norm()).to(written)

    def activations(self, task: Task, batch: Batch) -> Tensor:
        """What the layer writes, [B, T, D]."""
        return self._written(task.model, lambda: task.hidden(batch), batch.encoded.ids)

    def _written(self, model: nn.Module, run: Callable[[], Tensor], ids: Tensor) -> Tensor:
        caught = []
        hook = self.steered(model).register_forward_hook(lambda _, __, output: caught.append(output))
        try:
            run()
        finally:
            hook.remove()
        written = caught[0] if caught else None
        written = written[0] if isinstance(written, tuple) else written
        if not isinstance(written, Tensor) or written.shape[:-1] != ids.shape:
            got = list(written.shape) if isinstance(written, Tensor) else type(written).__name__
            raise ValueError(f"layer: {self.layer!r} writes {got}, want [{len(ids)}, {ids.shape[1]}, D]")
        return written

    def forget_loss(self, task: Task, batch: Batch) -> Tensor:
        return _distance(self.activations(task, batch)[batch.counted], task.cache["target"], batch)

    def retain_loss(self, task: Task, batch: Batch) -> Tensor:
        before = torch.cat([task.cache[f"written.{row}"] for row in batch.rows.tolist()])
        return _distance(self.activations(task, batch)[batch.counted], before, batch)


def _distance(written: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean over sequences of the mean over those that count, whose `written` [tokens, D] are, row after row."""
    counts = batch.counted.sum(1)
    weights = (counts * len(counts)).to(written.dtype).reciprocal().repeat_interleave(counts)
    return (weights * (written - target).square().mean(1)).sum()
