"""How far a sample lies from its class centre: the `divergence` switch of JSCDS.

Each function takes logits or embeddings [n, D] and one centre [D] and gives [n] (nats, but for L2). Write
p = softmax(sample) and q = softmax(centre).
"""

import torch
from torch import Tensor

from palimpsest.kernels import jensen_shannon
from palimpsest.selection import checks


def jsd(samples: Tensor, centre: Tensor) -> Tensor:
    """½KL(p‖m) + ½KL(q‖m), m = (p + q)/2; at most ln 2. What the text of JSCDS names (arXiv:2407.00362)."""
    return jensen_shannon(samples, centre[None])[:, 0]


def half_jeffreys(samples: Tensor, centre: Tensor) -> Tensor:
    """½KL(q‖p) + ½KL(p‖q) = ½Σ(p − q)(log p − log q), half of Jeffreys' divergence; unbounded.

    What the successor code computes in place of the Jensen–Shannon divergence. Ours stays in log-space and is
    finite for finite logits; `half_jeffreys_softmax_log` is the code's own arithmetic.
    """
    log_p, log_q = samples.log_softmax(-1), centre.log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1) / 2


def half_jeffreys_softmax_log(samples: Tensor, centre: Tensor) -> Tensor:
    """The same quantity by the successor code's arithmetic: softmax first, then its logarithm.

    For showing the defect, not for selecting. Where a probability underflows to 0 its logarithm is −inf: the
    result is +inf if one of p and q underflows at a coordinate, NaN if both do at the same one. In float32 a
    logit 104 below the largest suffices. The code then sorts with NumPy and reverses, which puts NaN first.
    """
    p, q = samples.softmax(-1), centre.softmax(-1)
    log_p, log_q = p.log(), q.log()
    kl_pq = (torch.xlogy(p, p) - p * log_q).sum(-1)
    kl_qp = (torch.xlogy(q, q) - q * log_p).sum(-1)
    return (kl_pq + kl_qp) / 2


def kl(samples: Tensor, centre: Tensor) -> Tensor:
    """KL(p‖q), from the sample to the centre (the direction is ours; no source fixes it)."""
    log_p, log_q = samples.log_softmax(-1), centre.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def l2(samples: Tensor, centre: Tensor) -> Tensor:
    """‖sample − centre‖₂ on the vectors as given, without softmax: the score of Moderate."""
    size = scale(torch.maximum(samples.abs(), centre.abs()).amax(-1, keepdim=True))
    return (samples / size - centre / size).norm(dim=-1).double() * size[:, 0].double()


def scale(size: Tensor) -> Tensor:
    """The power of two next above `size`, 1 for 0. Vectors of that size are divided by it, which rounds nothing, so
    that their squares neither overflow nor vanish."""
    most = 127 if size.dtype == torch.float32 else 1023  # the largest power that is a number
    return torch.ldexp(torch.ones_like(size), size.frexp().exponent.clamp(-most + 1, most))


DIVERGENCES = {"jsd": jsd, "half_jeffreys": half_jeffreys, "kl": kl, "l2": l2}


def mean(vectors: Tensor) -> Tensor:
    """The mean of `vectors` [n, D], [D] float64, also where their sum would overflow."""
    vectors = vectors.double()
    size = scale(vectors.abs().amax())
    return (vectors / size).mean(0) * size


def about_mean(vectors: Tensor) -> Tensor:
    """`vectors` [n, D] less their mean, in float64 and in units of their `scale`: for what compares squares."""
    vectors = vectors.double()
    vectors = vectors / scale(vectors.abs().amax())
    return vectors - vectors.mean(0)


def divergence_to_centre(features: Tensor, labels: Tensor, divergence: str = "jsd") -> Tensor:
    """Each sample's divergence to the centre of its own class. [N, D] float, [N] int -> [N] float64.

    The centre of a class is the mean of its vectors, accumulated in float64, softmax taken after the mean
    (shared reading of the text and the successor code). Divergences are those of `DIVERGENCES`.

    Raises `ValueError` for shapes that disagree, NaN or infinite features, bad labels, an unknown divergence.
    """
    checks.choice("divergence", divergence, DIVERGENCES)
    features = checks.float_tensor("features", features, "ND")
    checks.finite("features", features, "ND")
    labels = checks.labels_tensor(labels, len(features)).to(features.device)
    values = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        samples = features[members]
        centre = mean(samples).to(samples.dtype)
        values[members] = DIVERGENCES[divergence](samples, centre).double()
    return values
