"""Kernels that can be lifted out: each op in its own folder, nothing imported from the rest of the project.

An op is called as ``kernels.<op>(..., backend=None | "reference" | "triton")``; ``last_backend()`` tells what
ran. A folder and its function share a name, so reach into a folder with
``from palimpsest.kernels.<op> import reference`` (``import palimpsest.kernels.<op>.reference as r`` finds the
function instead).
"""

from palimpsest.kernels._dispatch import BackendUnavailableError, last_backend
from palimpsest.kernels.jensen_shannon import jensen_shannon
from palimpsest.kernels.project_orthogonal import project_orthogonal
from palimpsest.kernels.softmax_entropy import softmax_entropy

__all__ = ["BackendUnavailableError", "jensen_shannon", "last_backend", "softmax_entropy"]
