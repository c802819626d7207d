"""Torch path: in each tensor the rows that change place are read together, then written together."""

import torch


def move_(tensors, paths, ends):
    """As reference.move_."""
    device, batch = tensors[0].device, len(tensors[0])
    if paths.ndim == 1 and isinstance(ends, int):
        # A beginning of the path may stay: after a gap, places are ahead for good.
        stay = next((i for i, place in enumerate(paths.tolist()) if place != i), len(paths))
        if stay < len(paths):
            source, first, count = paths[stay:].to(device) + ends, ends + stay, len(paths) - stay
            for x in tensors:
                x[:, :, first : first + count] = x[:, :, source]
        return
    paths = paths.to(device)
    places = torch.arange(paths.shape[-1], device=device)
    request, i = (paths > places).expand(batch, -1).nonzero(as_tuple=True)
    end = ends if isinstance(ends, int) else ends.to(device)[request]
    source, target = end + paths.expand(batch, -1)[request, i], end + i
    if len(source):
        for x in tensors:
            x[request, :, target] = x[request, :, source]
