"""K networks of one architecture, trained at once as one network with K groups.

A slim network on a small batch spends its time on starting operations, not on arithmetic. Laid side by side
as the groups of one grouped convolution, K networks start each operation once. No weight, statistic or
gradient crosses from one network to another: a convolution with `groups=K` is K convolutions, batch norm works
channel by channel, and the loss is a sum. The tests hold each network to what it becomes when trained alone.

`torch.func.stack_module_state` with `vmap` was measured in its place: five slim ResNet-18 in float, batches of 64
images 1×28×28, one CPU thread, forward and backward, nine steps of each in turn. Batch norm trains and keeps its
running statistics there, and logits agree to rounding (3e-5), but a step takes 1.5 times as long (1.25 to 1.78).
Quantised networks it cannot run: `kernels.lsq_quantize` refuses a step that is not positive, and vmap admits no look
at a value.
"""

import copy

import torch
from torch import nn

from .classifier import BodyAndHead, logits_of
from .quantised import Quantised, code_ranges


class Solo(nn.Module):
    """One network of any class behind the interface of `Lockstep`: K = 1, and the weights are the model's own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training  # of a network in evaluation mode the parts are not frozen (`modes.train`)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return logits_of(self.model(x[:, 0])).unsqueeze(1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.features(x[:, 0]).unsqueeze(1)

    def unpack(self) -> None:
        """Nothing to copy: training changed the model itself."""


class Heads(Quantised, nn.Module):
    """K linear layers side by side, float or quantised: [N, K, D] -> [N, K, classes]."""

    def __init__(self, heads: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))
        if isinstance(heads[0], Quantised):
            self.join(heads)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if hasattr(self, "weight_step"):
            features, weight = self.rounded_input(features), self.rounded_weight()
        return torch.einsum("nkd,kcd->nkc", features, weight) + self.bias


class Lockstep(nn.Module):
    """The grouped twin of `models`, which must be alike in everything but their weights.

    `features` maps [N, K, C, H, W] to [N, K, D], `forward` to logits [N, K, classes]. `unpack` copies weights
    and statistics back into the models given. Raises ValueError when the models are not alike, are more than a body
    and a head (`two_parts`), or have a layer with weights that is neither a convolution nor a batch norm.
    """

    def __init__(self, models: list[nn.Module]):
        super().__init__()
        for model in models:
            if not two_parts(model):
                raise ValueError(
                    f"models: got {type(model).__name__} among {len(models)}, want networks that are "
                    "`nets.BodyAndHead` with its `forward` and `features`; one by itself may be of any class"
                )
        layouts = [{name: v.shape for name, v in model.state_dict().items()} | code_ranges(model) for model in models]
        if not models or any(layout != layouts[0] for layout in layouts):
            names = [type(model).__name__ for model in models]
            raise ValueError(f"models: got {names}, want at least one, all of one architecture, width and precision")
        self.training = models[0].training  # as in `Solo`
        self.models = [models]  # in a list, so that torch does not register them as submodules
        self.body = _grouped([model.body for model in models])
        self.head = Heads([model.head for model in models])

    def features(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return self.body(flat).unflatten(1, (len(self.head.weight), -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))

    @torch.no_grad()
    def unpack(self) -> None:
        models = self.models[0]
        for k, model in enumerate(models):
            own = model.body.state_dict()
            for name, value in self.body.state_dict().items():
                part = value if value.ndim == 0 else value.chunk(len(models))[k]
                own[name].copy_(part)
            for name, parameter in model.head.named_parameters():
                parameter.copy_(self.head.get_parameter(name)[k])


def side_by_side(models: list[nn.Module]) -> Lockstep | Solo:
    """`Lockstep(models)`, or `Solo` for a single network that has not the form `Lockstep` takes apart."""
    if len(models) == 1 and not two_parts(models[0]):
        return Solo(models[0])
    return Lockstep(models)


def two_parts(model: nn.Module) -> bool:
    """Is `model` its body and its head and nothing else? Attributes of these names alone do not tell: a class may
    do more with them."""
    own = type(model)
    return isinstance(model, BodyAndHead) and all(
        getattr(own, part) is getattr(BodyAndHead, part) for part in ("forward", "features")
    )


def _grouped(modules: list[nn.Module]) -> nn.Module:
    """One module that does to K groups of channels what the `modules` do to one each."""
    count, twin = len(modules), copy.deepcopy(modules[0])
    for name, layer in twin.named_modules():
        peers = [module.get_submodule(name) for module in modules]
        if isinstance(layer, nn.Conv2d):
            layer.in_channels, layer.out_channels = layer.in_channels * count, layer.out_channels * count
            layer.groups *= count
            layer.networks = count  # read by quantised layers, whose steps are one per network
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features *= count
            layer.running_mean = torch.cat([peer.running_mean for peer in peers])
            layer.running_var = torch.cat([peer.running_var for peer in peers])
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"models: got {type(layer).__name__} as layer {name!r} of the body, want weights in convolutions and "
                "batch norms only"
            )
        for key, parameter in layer.named_parameters(recurse=False):
            joined = torch.cat([getattr(peer, key).detach() for peer in peers])
            if joined.ndim == 4:
                joined = joined.contiguous(memory_format=torch.channels_last)
            setattr(layer, key, nn.Parameter(joined, requires_grad=parameter.requires_grad))
    return twin
