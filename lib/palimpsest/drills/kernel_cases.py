"""The nine kernels, each against its formula in numpy."""

import math

import numpy as np
import torch
from scipy.special import entr, log_softmax, rel_entr, softmax

from palimpsest import kernels
from palimpsest.drills.cases import any_float, case, size, tensor
from palimpsest.kernels.jensen_shannon import reference as jensen_shannon_scales
from palimpsest.kernels.masked_adamw_ import reference as masked_adamw_scales
from palimpsest.kernels.project_orthogonal import reference as project_orthogonal_scales
from palimpsest.kernels.softmax_entropy import reference as softmax_entropy_scales
from palimpsest.kernels.token_logprob import reference as token_logprob_scales
from palimpsest.kernels.tolerances import admitted_error, unit_roundoff
from palimpsest.kernels.topk_confidence import reference as topk_confidence_scales
from palimpsest.kernels.tree_attention import reference as tree_attention_scales

CODES = {"qn": -8, "qp": 7}


def admitted(value: torch.Tensor, length: int, scale: torch.Tensor) -> np.ndarray:
    """The kernels' own error model, and what float64 itself leaves of a result of size 1."""
    return admitted_error(value.dtype, length, scale.detach()).numpy() + 1e-14


def _two_logits(rng):
    dtype, width = any_float(rng), size(rng)
    return {"p_logits": tensor(rng, size(rng), width, dtype=dtype), "q_logits": tensor(rng, 3, width, dtype=dtype)}


@case(
    "jensen_shannon",
    kernels.jensen_shannon,
    _two_logits,
    lambda value, exact, p_logits, q_logits: admitted(
        value, p_logits.shape[1], jensen_shannon_scales.error_scale(p_logits, q_logits)
    ),
)
def jensen_shannon(p_logits, q_logits):
    p, q = softmax(p_logits, 1)[:, None], softmax(q_logits, 1)[None]
    m = (p + q) / 2
    return (rel_entr(p, m) + rel_entr(q, m)).sum(2) / 2


@case(
    "softmax_entropy",
    kernels.softmax_entropy,
    lambda rng: {"logits": tensor(rng, size(rng), size(rng))},
    lambda value, exact, logits: admitted(
        value, logits.shape[1], softmax_entropy_scales.error_scale(logits, apart=False)
    ),
)
def softmax_entropy(logits):
    return entr(softmax(logits, 1)).sum(1)


def _tokens(rng):
    dtype, width, vocabulary, tokens = any_float(rng), size(rng), size(rng), size(rng)
    return {
        "hidden": tensor(rng, tokens, width, dtype=dtype),
        "weight": tensor(rng, vocabulary, width, dtype=dtype),
        "targets": torch.from_numpy(rng.integers(0, vocabulary, tokens)),
    }


@case(
    "token_logprob",
    kernels.token_logprob,
    _tokens,
    lambda value, exact, hidden, weight, targets: admitted(
        value,
        hidden.shape[1] + len(weight),
        token_logprob_scales.error_scale(hidden, weight, targets.long()),
    ),
)
def token_logprob(hidden, weight, targets):
    return log_softmax(hidden @ weight.T, 1)[np.arange(len(targets)), targets]


def _confidence_allowed(value, exact, logits, k):
    probs, alpha = topk_confidence_scales.error_scales(torch.from_numpy(exact[0]))
    return admitted(value[0], k, probs), np.zeros(exact[1].shape), admitted(value[2], k, alpha)


@case(
    "topk_confidence",
    kernels.topk_confidence,
    lambda rng: {"logits": tensor(rng, size(rng), 7), "k": size(rng)},
    _confidence_allowed,
)
def topk_confidence(logits, k):
    ids = np.argsort(-logits, 1, kind="stable")[:, :k]
    probs = softmax(np.take_along_axis(logits, ids, 1), 1)
    alpha = 1 - entr(probs).sum(1) / math.log(k) if k > 1 else np.ones(len(logits))
    return probs, ids, alpha


def _quantised(rng):
    dtype = any_float(rng)
    x = tensor(rng, 3, size(rng), dtype=dtype)
    step = torch.from_numpy(10 ** rng.uniform(-2, 0, 3 if rng.random() < 0.5 else 1)).float()
    return {"x": x, "step": step if rng.random() < 0.8 else step[0], **CODES, "axis": 0}


def _one_code(value, exact, x, step, qn, qp, axis):
    """Rounding, and where the quotient lies at a border of two codes, a whole step."""
    several = step.numel() > 1
    shaped = step.double().numpy().reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim)) if several else float(step)
    quotient = x.double().numpy() / shaped
    near = np.abs(np.abs(quotient - np.floor(quotient)) - 0.5) <= 4 * unit_roundoff(torch.float32) * np.abs(quotient)
    return 4 * unit_roundoff(value.dtype) * np.abs(exact) + np.where(near, shaped, 0) + torch.finfo(value.dtype).tiny


@case("lsq_quantize", kernels.lsq_quantize, _quantised, _one_code)
def lsq_quantize(x, step, qn, qp, axis):
    step = step.reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim)) if step.size > 1 else step.reshape(())
    with np.errstate(invalid="ignore", over="ignore"):
        return np.round(np.clip(x / step, qn, qp)) * step


def _adamw(rng):
    shape, dtype = (size(rng), size(rng)), any_float(rng)
    first = {name: [tensor(rng, *shape, dtype=dtype)] for name in ("params", "grads", "exp_avg")}
    return {
        **first,
        "exp_avg_sq": [tensor(rng, *shape, dtype=dtype).abs()],
        "masks": [torch.from_numpy(rng.random(shape) < 0.5)],
        "scales": None,
        "step": size(rng),
        "lr": 0.01,
        "betas": (0.9, 0.99),
        "eps": 1e-4,
        "weight_decay": 0.1,
    }


def step_of_adamw(params, grads, exp_avg, exp_avg_sq, masks, scales, **settings):
    """`kernels.masked_adamw_`, which works in place, as a function of its arguments: parameter and moments."""
    kernels.masked_adamw_(params, grads, exp_avg, exp_avg_sq, masks, scales, **settings)
    return params[0], exp_avg[0], exp_avg_sq[0]


def _adamw_allowed(value, exact, params, grads, exp_avg, exp_avg_sq, masks, scales, **settings):
    """Of a parameter whose second moment is too large to be stored, anything: so torch.optim.AdamW leaves it."""
    ones = torch.ones((), dtype=torch.float64)
    scale = masked_adamw_scales.error_scale(params[0], grads[0], exp_avg[0], exp_avg_sq[0], ones, **settings)
    allowed = [admitted(v, 2, s) for v, s in zip(value, scale, strict=True)]
    lost = exact[2] > torch.finfo(torch.float32 if value[2].dtype != torch.float64 else torch.float64).max / 1e3
    return np.where(lost, np.inf, allowed[0]), *allowed[1:]


@case("masked_adamw_", step_of_adamw, _adamw, _adamw_allowed)
def masked_adamw(params, grads, exp_avg, exp_avg_sq, masks, scales, step, lr, betas, eps, weight_decay):
    (p,), (g,), (m0,), (v0,), (mask,) = params, grads, exp_avg, exp_avg_sq, masks
    with np.errstate(invalid="ignore", over="ignore"):
        m, v = betas[0] * m0 + (1 - betas[0]) * g, betas[1] * v0 + (1 - betas[1]) * g**2
        direction = m / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
        new = p * (1 - lr * weight_decay) - lr * direction
    return np.where(mask, new, p), np.where(mask, m, m0), np.where(mask, v, v0)


def _gradients(rng):
    shape, dtype = (size(rng), size(rng)), any_float(rng)
    return {
        "grads_f": [tensor(rng, *shape, dtype=dtype)],
        "grads_r": [tensor(rng, *shape, dtype=dtype)],
        "lam": float(rng.uniform(0, 2)),
        "mode": "always" if rng.random() < 0.5 else "conflict",
        "scope": "model" if rng.random() < 0.5 else "layer",
    }


def _gradients_allowed(value, exact, grads_f, grads_r, lam, mode, scope):
    (scale,) = project_orthogonal_scales.error_scale(grads_f, grads_r, lam, mode, scope)
    return [admitted(value[0], 2, scale)]


@case("project_orthogonal", kernels.project_orthogonal, _gradients, _gradients_allowed)
def project_orthogonal(grads_f, grads_r, lam, mode, scope):
    (f,), (r,) = grads_f, grads_r
    square = (r * r).sum()
    c = (f * r).sum() / square if square else 0.0
    return [r + lam * (f - (c if mode == "always" else min(c, 0)) * r)]


def _tree(rng):
    dtype, nodes, prefix, width = any_float(rng), size(rng, 5), size(rng, 5), size(rng)
    parents = [int(rng.integers(0, i)) if i else -1 for i in range(nodes)]
    ancestors = torch.eye(nodes, dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
    keys = (2, 2, prefix + nodes, width)
    return {
        "q": tensor(rng, 2, 4, nodes, width, dtype=dtype),
        "k": tensor(rng, *keys, dtype=dtype),
        "v": tensor(rng, *keys, dtype=dtype),
        "ancestors": ancestors,
        "prefix_len": prefix,
    }


def _tree_allowed(value, exact, q, k, v, ancestors, prefix_len):
    scale = tree_attention_scales.error_scale(q, k, v, ancestors, prefix_len, q.shape[3] ** -0.5)
    return admitted(value, tree_attention_scales.terms(k), scale)


@case("tree_attention", kernels.tree_attention, _tree, _tree_allowed)
def tree_attention(q, k, v, ancestors, prefix_len):
    k, v = np.repeat(k, 2, 1), np.repeat(v, 2, 1)
    seen = np.concatenate([np.ones((len(ancestors), prefix_len), bool), ancestors], 1)
    scores = np.where(seen, q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5, -np.inf)
    return softmax(scores, 3) @ v


def _caches(rng):
    dtype, prefix, nodes = any_float(rng), size(rng), size(rng)
    path = sorted({0, *rng.choice(nodes, size(rng, nodes), replace=False).tolist()})
    shape = (size(rng, 2), size(rng, 2), prefix + nodes, size(rng))
    return {
        "keys": [tensor(rng, *shape, dtype=dtype)],
        "values": [tensor(rng, *shape, dtype=dtype)],
        "accepted": path,
        "prefix_len": prefix,
    }


def commit(keys, values, accepted, prefix_len):
    """`kernels.cache_commit`, which works in place, as a function of its arguments: caches and length."""
    length = kernels.cache_commit(keys, values, accepted, prefix_len)
    return keys[0], values[0], torch.as_tensor(length)


@case("cache_commit", commit, _caches, lambda value, exact, **_: tuple(np.zeros(x.shape) for x in exact))
def cache_commit(keys, values, accepted, prefix_len):
    moved = []
    for (x,) in (keys, values):
        new = x.copy()
        for i, place in enumerate(accepted):
            new[:, :, prefix_len + i] = x[:, :, prefix_len + place]
        moved.append(new)
    return *moved, np.array(prefix_len + len(accepted))
