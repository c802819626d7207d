"""K small variational autoencoders side by side, one per network, for the features of LAF."""

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.unlearning.vision.task import Task

HIDDEN, LATENT = (128, 32), 8
EPOCHS, STEP_SIZE, DIVERGENCE_WEIGHT = 10, 1e-3, 0.025

Parameters = list[Tensor]


def reconstruct(parameters: Parameters, features: Tensor, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """(squared reconstruction error, KL(q(z) ‖ N(0, 1))), both [K, B], of features [K, B, D].

    `noise` [K, B, 8] is what the latent sample adds in standard deviations; 0 takes the mean of q.
    """
    half = len(parameters) // 2
    mean, log_variance = _layers(parameters[:half], features).chunk(2, -1)
    output = _layers(parameters[half:], mean + (log_variance / 2).exp() * noise)
    divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum(-1) / 2
    return ((output - features) ** 2).sum(-1), divergence


def _layers(parameters: Parameters, x: Tensor) -> Tensor:
    for i in range(0, len(parameters), 2):
        x = torch.baddbmm(parameters[i + 1], x, parameters[i])
        if i + 2 < len(parameters):
            x = F.relu(x)
    return x


def train(task: Task, features: Tensor, indices: Tensor, name: str) -> Parameters:
    """Autoencoders of the features [K, N, D] of the samples `indices` [K, n]; random numbers by `name`."""
    generators = [task.generator(0, k, "autoencoder", name) for k in range(task.networks)]
    widths = [features.shape[2], *HIDDEN]
    shapes = [*zip(widths, [*HIDDEN, 2 * LATENT], strict=True)]
    shapes += zip([LATENT, *reversed(HIDDEN)], [*reversed(HIDDEN), features.shape[2]], strict=True)

    def draw(sampler, *shape: int) -> Tensor:
        drawn = [sampler(*shape, generator=g, dtype=features.dtype) for g in generators]
        return torch.stack(drawn).to(features.device)

    parameters = []
    for fan_in, fan_out in shapes:
        for rows in (fan_in, 1):  # weight and bias, as torch's linear layers begin
            parameters.append(((2 * draw(torch.rand, rows, fan_out) - 1) / fan_in**0.5).requires_grad_())
    optimiser = torch.optim.Adam(parameters, STEP_SIZE)
    columns = torch.arange(task.networks, device=features.device)
    for epoch in range(EPOCHS):
        for batch in task.batches(indices, epoch):
            own = features[columns, batch].transpose(0, 1)
            error, divergence = reconstruct(parameters, own, draw(torch.randn, len(batch), LATENT))
            optimiser.zero_grad()
            (error + DIVERGENCE_WEIGHT * divergence).mean(1).sum().backward()
            optimiser.step()
    return [p.detach() for p in parameters]
