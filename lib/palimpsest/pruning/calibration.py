"""What calibration sends into each linear map, measured layer by layer while the layers are being pruned."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .decoder import Layer


def require_calibration(model: nn.Module, ids: Tensor | None) -> None:
    """ValueError unless `ids` is a non-empty integer tensor [N, T] of tokens that `model` embeds."""
    if (
        not isinstance(ids, Tensor)
        or ids.dim() != 2
        or ids.numel() == 0
        or ids.dtype not in (torch.int32, torch.int64)
    ):
        got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"calibration_ids: got {got}, want an integer tensor [N, T] of at least one token")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(f"calibration_ids: got tokens from {low} to {high}, want 0 to {vocabulary - 1}")


def layer_by_layer(
    model: nn.Module,
    layers: list[Layer],
    ids: Tensor,
    statistic: Callable[[Tensor], Tensor],
    visit: Callable[[Layer, dict[str, Tensor]], None],
) -> None:
    """One forward pass of the decoder that stops before every layer: measures it, then calls `visit(layer,
    statistics)`, which may change its weights; the pass goes on through the layer as `visit` left it.

    So layer l is measured on the outputs of the layers before it in their final state. Within a layer all maps
    are measured before any is changed, as the released code of Wanda and SparseGPT does by default.
    """

    def stop_before(layer):
        def before(module, args, kwargs):
            # `forward`, because a call of the module would come back to this hook.
            visit(layer, _measure(layer.linears, statistic, lambda: module.forward(*args, **kwargs)))

        return before

    hooks = [layer.module.register_forward_pre_hook(stop_before(layer), with_kwargs=True) for layer in layers]
    try:
        # Each layer runs twice: a cache would hold its keys and values twice.
        model.get_decoder()(input_ids=ids.to(model.get_input_embeddings().weight.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()


def _measure(
    linears: dict[str, nn.Linear], statistic: Callable[[Tensor], Tensor], run: Callable[[], object]
) -> dict[str, Tensor]:
    """`statistic` of the inputs of each map during `run()`, by name. ValueError where one is not finite."""
    found: dict[str, Tensor] = {}
    seen, value = None, None

    def record(name):
        def before(_, args):
            nonlocal seen, value
            if args[0] is not seen:  # query, key and value maps read one tensor: measured once
                seen, value = args[0], statistic(args[0].flatten(0, -2))
            found[name] = found[name] + value if name in found else value

        return before

    hooks = [linear.register_forward_pre_hook(record(name)) for name, linear in linears.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for name in linears:
        if name not in found:
            raise ValueError(
                f"calibration_ids: no token reaches {name} as a module, want some input for every "
                "linear map, or a method that looks at weights alone"
            )
        if not found[name].isfinite().all():
            raise ValueError(f"calibration_ids: the inputs of {name} are not finite, want finite activations")
    return found
