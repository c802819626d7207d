"""Prune a decoder from the first layer to the last."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from palimpsest.runs.progress import progress_bar

from . import random
from .calibration import layer_by_layer, require_calibration
from .decoder import Layer, decoder_layers, require_linear
from .masks import Masks
from .pattern import Pattern
from .registry import METHODS


@torch.no_grad()
def prune(
    model: nn.Module,
    calibration_ids: Tensor | None,
    *,
    method: str,
    sparsity: float | str,
    seed: int = 0,
    show: str | None = None,
) -> Masks:
    """Prune every `nn.Linear` in the decoder layers of `model`, in place; what is pruned is +0.0 afterwards.

    Embeddings, norms, biases and the output head stay dense. Layers are pruned in order, each calibrated on the
    outputs of the pruned ones before it (Wanda and SparseGPT, in their released code). All calibration tokens go
    through in one batch: memory is that of a forward pass over N·T tokens without the output head.

    Args:
        model: a transformers decoder (Llama, Qwen2, Gemma, …), any floating dtype, adapters merged.
        calibration_ids: tokens, int64 [N, T], rows full: no padding. "magnitude" and "random" look at weights
            alone and take None.
        method: a name in `METHODS`. "magnitude", "random": compared within a matrix; "wanda": within an output
            row; "sparsegpt": within 128 columns of a matrix, and survivors adapt.
        sparsity: pruned share of each matrix, in (0, 1), or "N:M": N of every M inputs survive.
        seed: of the generator behind "random"; the other methods draw nothing.
        show: label of a progress bar over the layers; None shows none.

    Returns:
        The masks of all pruned matrices. On one machine equal input gives equal bits.

    Raises:
        ValueError: unknown method; a sparsity that leaves nothing or everything, or whose M does not divide the
            inputs; calibration tokens that are missing, misshapen or outside the vocabulary; weights or
            activations that are not finite; a model that is no such decoder, or whose experts are no
            `nn.Linear`. After an error or an interrupt the model has the weights it came with.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, want one of {sorted(METHODS)}")
    chosen, pattern, generator = METHODS[method], Pattern.parse(sparsity), _generator(seed)
    require_linear(model)
    layers = decoder_layers(model)
    if chosen.statistic is not None:
        require_calibration(model, calibration_ids)
    kept, originals = {}, {}

    def prune_layer(layer: Layer, statistics: dict[str, Tensor]) -> None:
        for name, linear in layer.linears.items():
            weight = linear.weight
            if not weight.isfinite().all():
                raise ValueError(f"model: {name} has values that are not finite, want finite weights")
            originals[weight] = weight.clone()
            kept[name], values = chosen.solve(weight, statistics.get(name), pattern, generator)
            kept[name] = kept[name].to(weight.device)
            weight.copy_(values).masked_fill_(~kept[name], 0.0)
        bar.update()

    with progress_bar(total=len(layers), desc=show) as bar, _evaluation(model):
        try:
            if chosen.statistic is None:
                for layer in layers:
                    prune_layer(layer, {})
            else:
                layer_by_layer(model, layers, calibration_ids, chosen.statistic, prune_layer)
        except BaseException:  # an interrupt as well: no caller wants a half-pruned model
            for weight, original in originals.items():
                weight.copy_(original)
            raise
    return Masks(kept)


def random_masks(model: nn.Module, share: float, seed: int) -> Masks:
    """Masks that keep a random `share` in (0, 1) of each matrix that `prune` would prune; weights stay as they are.

    The control that restricts updates as pruning does, in a dense model. Equal to the masks of
    `prune(model, None, method="random", sparsity=1 - share, seed=seed)`.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
        raise ValueError(f"share: got {share!r}, want a number in (0, 1)")
    pattern, generator = Pattern(1 - share), _generator(seed)
    require_linear(model)
    linears = {name: part for layer in decoder_layers(model) for name, part in layer.linears.items()}
    return Masks(
        {
            name: random.mask(part.weight.shape, pattern, generator).to(part.weight.device)
            for name, part in linears.items()
        }
    )


def _generator(seed: int) -> torch.Generator:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: got {seed!r}, want an integer from 0 to 2**63 - 1")
    return torch.Generator().manual_seed(int(seed))


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout; afterwards every module has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
