"""Core sets of a data set, seen by a model: features of every sample, and `select` on them."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from palimpsest.data.loaders import pair_of
from palimpsest.nets import modes
from palimpsest.nets.classifier import logits_of
from palimpsest.selection.registry import select
from palimpsest.selection.signals import Signals


def select_from(
    model: nn.Module, loader: DataLoader, fraction: float, method: str = "jscds", *, layer: str | None = None, **more
) -> Tensor:
    """Indices of the samples of `loader` to keep, int64, ascending, in the order in which it gives them.

        kept = select_from(model, DataLoader(data, 256), 0.3)
        small = torch.utils.data.Subset(data, kept.tolist())

    model, loader, layer: as in `seen`. The rest as in `selection.select`, which also gets the signal `logits`; a
    method that needs other signals is given them as `signals`.
    """
    features, logits, labels = seen(model, loader, layer)
    return select(features, labels, fraction, method, **{"signals": Signals(logits=logits)} | more)


@torch.no_grad()
def seen(model: nn.Module, loader: DataLoader, layer: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What enters `layer` for every sample [N, D], the logits [N, C] and the labels [N] int64, on the CPU.

    model: a classifier whose output is logits, or has them as `logits` or first; it is asked in evaluation mode and
        comes back in the modes in which it came.
    loader: gives batches (images, labels) or dictionaries that name the two (`data.loaders`), in a fixed order.
    layer: the name, as in `model.named_modules()`, of the layer whose input is the feature; None takes the last
        `nn.Linear` that is called, which is the head of most classifiers. Inputs with further axes are averaged over
        all but the first and the last.

    Raises ValueError for a loader that shuffles, for a model without such a layer and for batches of other forms.
    """
    if not isinstance(loader, DataLoader):
        raise ValueError(f"loader: got {type(loader).__name__}, want a DataLoader")
    if isinstance(loader.sampler, torch.utils.data.RandomSampler):
        raise ValueError("loader: got one that shuffles, want shuffle=False: indices are places in its order")
    layers = dict(model.named_modules())
    if layer is not None and layer not in layers:
        raise ValueError(f"layer: got {layer!r}, want one of model.named_modules()")
    watched = [part for part in layers.values() if isinstance(part, nn.Linear)] if layer is None else [layers[layer]]
    entered, found = [], []
    hooks = [part.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for part in watched]
    weight = next(model.parameters(), torch.empty(0))
    try:
        with modes.evaluation(model):
            for batch in loader:
                pair = pair_of("loader", batch)
                if pair is None:
                    raise ValueError(f"loader: got batches {type(batch).__name__}, want pairs, or both by name")
                images, labels = pair
                entered.clear()
                logits = logits_of(model(images.to(weight.device, weight.dtype)))
                if not entered:
                    raise ValueError(
                        f"layer: got {layer or 'no nn.Linear'}, which the model does not call; name another"
                    )
                found.append((_flat(entered[-1]).cpu(), logits.cpu(), labels.long().cpu()))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("loader: got no batch, want samples")
    features, logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features, logits, labels


def _flat(entered: Tensor) -> Tensor:
    return entered if entered.ndim == 2 else entered.flatten(1, -2).mean(1)
