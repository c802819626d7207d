"""Quantised networks: LSQ layers in place of a network's convolutions and linear layers.

Source: Esser et al. 2020, "Learned step size quantization" (equations 1 to 5). Each quantised layer rounds its
input and its weight to integer codes times a learned step, in training as in evaluation; batch norm, pooling and
the additions of a residual network stay in float. A layer's input is unsigned where calibration saw no negative
value (after ReLU) and signed elsewhere (the image, the linear bottleneck of MobileNetV2), which is our reading:
the code released with Q-MUL keeps activations at signed 8 bits and the stem, downsampling and classifier in float.
"""

import copy
import math
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from palimpsest.kernels import lsq_quantize
from palimpsest.nets import modes
from palimpsest.nets.attention import open_attention

PRECISIONS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4), "W2A2": (2, 2)}
"""Name -> (bits of the weights, bits of the activations) of all layers but the first and the last."""

COLLAPSE = 1e-6
"""A step is never below this (the clamp that keeps LSQ's division defined); a step that reaches it has collapsed:
its layer then outputs nothing."""


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """(Q_N, Q_P): the smallest and largest code. Raises ValueError for bits outside 2 .. 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits: got {bits!r}, want an integer from 2 to 8")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def first_step(magnitude: float, top: int) -> float:
    """s = 2·mean|v|/√Q_P for values of mean `magnitude` and largest code `top` (Esser et al., section 2.1)."""
    return max(2 * magnitude / top**0.5, COLLAPSE)


class Quantised:
    """What the two layers share. `networks` is 1, or the number of networks that `Lockstep` laid side by side."""

    networks = 1

    def start(self, bits: tuple[int, int], seen: tuple[float, float]) -> None:
        """Add the two steps. `seen` is (mean of |input|, smallest input) of the calibration batch."""
        magnitude, smallest = seen
        self.weight_range = code_range(bits[0], signed=True)
        self.input_range = code_range(bits[1], signed=smallest < 0)
        for name, mean, top in (
            ("weight_step", self.weight.detach().abs().mean().item(), self.weight_range[1]),
            ("input_step", magnitude, self.input_range[1]),
        ):
            setattr(self, name, nn.Parameter(self.weight.new_full((1,), first_step(mean, top))))

    def join(self, layers: list["Quantised"]) -> None:
        """Take over the steps and ranges of `layers`, one per network."""
        self.networks = len(layers)
        self.weight_range, self.input_range = layers[0].weight_range, layers[0].input_range
        self.weight_step = nn.Parameter(torch.cat([layer.weight_step.detach() for layer in layers]))
        self.input_step = nn.Parameter(torch.cat([layer.input_step.detach() for layer in layers]))

    def rounded_weight(self) -> torch.Tensor:
        weight = self.weight if self.networks == 1 else self.weight.unflatten(0, (self.networks, -1))
        return lsq_quantize(weight, self.weight_step, *self.weight_range).view_as(self.weight)

    def rounded_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.networks == 1:
            return lsq_quantize(x, self.input_step, *self.input_range)
        return lsq_quantize(x.unflatten(1, (self.networks, -1)), self.input_step, *self.input_range, 1).flatten(1, 2)


class QuantisedConv2d(Quantised, nn.Conv2d):
    """A convolution of rounded inputs with a rounded weight. Made by `quantise`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.rounded_input(x), self.rounded_weight(), self.bias)


class QuantisedLinear(Quantised, nn.Linear):
    """A linear layer of rounded inputs [..., D] with a rounded weight. Made by `quantise`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.rounded_input(x), self.rounded_weight(), self.bias)


TWINS = {nn.Conv2d: QuantisedConv2d, nn.Linear: QuantisedLinear}


def quantise(
    model: nn.Module, bits: str | tuple[int, int], calibration: torch.Tensor, *, ends: int | None = 8
) -> nn.Module:
    """A copy of `model` whose convolutions and linear layers are quantised; the given one is left as it was.

    Works on any module: layers that are exactly `nn.Conv2d` or `nn.Linear` are replaced, and those of an
    `nn.MultiheadAttention`, whose projections become linear layers (`nets.attention`). All else is kept; a warning
    names the layers whose weight has two dimensions or more and stays in float, but for the `ends`.

    Args:
        bits: a name in `PRECISIONS`, or (weight bits, activation bits), each 2 to 8.
        calibration: float [N, ...], a batch of inputs; one forward pass in evaluation mode gives the first steps
            and tells signed from unsigned inputs.
        ends: bits of weights and inputs of the first and the last layer that ran; None keeps them in float.

    Raises ValueError for other bits, an empty or non-finite calibration batch, a model without such layers, and a
    layer with a weight that is computed from others (weight_norm, spectral_norm).
    """
    if isinstance(bits, str):
        if bits not in PRECISIONS:
            raise ValueError(f"bits: got {bits!r}, want one of {sorted(PRECISIONS)} or a pair of integers")
        bits = PRECISIONS[bits]
    if not isinstance(bits, tuple) or len(bits) != 2:
        raise ValueError(f"bits: got {bits!r}, want one of {sorted(PRECISIONS)} or a pair of integers")
    for value in (*bits, *(() if ends is None else (ends,))):
        code_range(value, signed=True)
    if calibration.shape[0] == 0 or not calibration.isfinite().all():
        raise ValueError(f"calibration: got shape {list(calibration.shape)}, want at least one finite sample")
    for name, layer in model.named_modules():
        # The older functions of these names leave a plain tensor, which no copy can be made of.
        if parametrize.is_parametrized(layer) or (hasattr(layer, "weight") and "weight" not in _registered(layer)):
            raise ValueError(
                f"model: got {name!r}, whose weight is computed from others (weight_norm, spectral_norm), want plain "
                "weights: torch.nn.utils.parametrize.remove_parametrizations makes them so"
            )
    model = copy.deepcopy(model)
    open_attention(model)
    names = {layer: name for name, layer in model.named_modules() if type(layer) in TWINS}
    seen: dict[nn.Module, tuple[float, float]] = {}

    def look(layer, inputs):
        smallest = inputs[0].min().item()
        mean, before = seen.get(layer, (inputs[0].abs().mean().item(), smallest))
        seen[layer] = (mean, min(before, smallest))  # a layer may run more than once

    hooks = [layer.register_forward_pre_hook(look) for layer in names]
    try:
        with torch.no_grad(), modes.evaluation(model):
            model(calibration)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(f"model: got {type(model).__name__}, in which no Conv2d or Linear layer ran")
    ran = list(seen)
    for layer in ran:
        precision = (ends, ends) if layer in (ran[0], ran[-1]) else bits
        if precision != (None, None):
            # A change of class keeps the parameters, their order and every attribute of the layer.
            layer.__class__ = TWINS[type(layer)]
            layer.start(precision, seen[layer])
    in_float = [
        f"{name} ({type(layer).__name__})"
        for name, layer in model.named_modules()
        if not isinstance(layer, Quantised)
        and layer not in (ran[0], ran[-1])
        and any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
    ]
    if in_float:
        warnings.warn(f"quantise leaves in float: {', '.join(in_float)}", stacklevel=2)
    return model


def _registered(layer: nn.Module) -> set[str]:
    return {*layer._parameters, *layer._buffers, *layer._modules}


def code_ranges(model: nn.Module) -> dict[str, tuple]:
    """Layer name -> (Q_N, Q_P) of the weight and of the input, for every quantised layer."""
    return {n: (m.weight_range, m.input_range) for n, m in model.named_modules() if isinstance(m, Quantised)}


def steps(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> step parameter [networks], of every quantised layer, in the model's order."""
    layers = [layer for layer in model.modules() if isinstance(layer, Quantised)]
    own = {id(getattr(layer, step, None)) for layer in layers for step in ("weight_step", "input_step")}
    return {name: p for name, p in model.named_parameters() if id(p) in own}


@torch.no_grad()
def hold_steps(parameters: list[nn.Parameter]) -> bool:
    """Clamp steps at `COLLAPSE` from below, after an update. False if one of them is not finite."""
    if not parameters:
        return True
    torch._foreach_clamp_min_(parameters, COLLAPSE)
    return math.isfinite(torch.cat(parameters).sum())


def collapsed(model: nn.Module) -> list[str]:
    """Names of the steps that sit at `COLLAPSE` or are not finite: the layer is dead or lost."""
    return [name for name, p in steps(model).items() if not bool((p > COLLAPSE).logical_and(p.isfinite()).all())]


@torch.no_grad()
def codes(model: nn.Module) -> dict[str, torch.Tensor]:
    """Layer name -> int8 codes of its weight, in the weight's shape: what would be deployed.

    Codes times step equals the rounded weight that training used, bit for bit. Only for a network by itself, not
    for a lockstep twin.
    """
    return {
        name: torch.round(torch.clamp(layer.weight / layer.weight_step, *layer.weight_range)).to(torch.int8)
        for name, layer in model.named_modules()
        if isinstance(layer, Quantised)
    }
