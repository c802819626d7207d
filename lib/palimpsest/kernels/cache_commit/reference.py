"""The definition, in plain torch: equation (1) of README.md in this folder."""

import torch


@torch.no_grad()
def move_(tensors: list[torch.Tensor], paths: torch.Tensor, ends: int | torch.Tensor) -> None:
    """Equation (1), row by row from a copy of each tensor, so that no order matters.

    Args:
        tensors: [B, Hkv, S, Dh] each. Updated.
        paths: [n] or [B, n] int64, -1 standing for none.
        ends: of the prefix, an integer or [B] int64.
    """
    for x in tensors:
        before = x.clone()
        for b in range(len(x)):
            end = ends if isinstance(ends, int) else int(ends[b])
            for i, place in enumerate((paths if paths.ndim == 1 else paths[b]).tolist()):
                if place >= 0:
                    x[b, :, end + i] = before[b, :, end + place]
