"""Kernels that can be lifted out: each op in its own folder, nothing imported from the rest of the project.

An op is called as ``kernels.<op>(..., backend=None | "reference" | "triton")``; ``last_backend()`` tells what
ran. A folder and its function share a name, so reach into a folder with
``from palimpsest.kernels.<op> import reference`` (``import palimpsest.kernels.<op>.reference as r`` finds the
function instead).
"""

from palimpsest.kernels._dispatch import BackendUnavailableError, last_backend
from palimpsest.kernels.cache_commit import cache_commit
from palimpsest.kernels.jensen_shannon import jensen_shannon
from palimpsest.kernels.lsq_quantize import lsq_quantize
from palimpsest.kernels.masked_adamw_ import masked_adamw_, pack_mask
from palimpsest.kernels.project_orthogonal import project_orthogonal
from palimpsest.kernels.softmax_entropy import softmax_entropy
from palimpsest.kernels.token_logprob import token_logprob
from palimpsest.kernels.topk_confidence import topk_confidence
from palimpsest.kernels.tree_attention import tree_attention

__all__ = [
    "BackendUnavailableError",
    "cache_commit",
    "jensen_shannon",
    "last_backend",
    "lsq_quantize",
    "masked_adamw_",
    "pack_mask",
    "project_orthogonal",
    "softmax_entropy",
    "token_logprob",
    "topk_confidence",
    "tree_attention",
]
