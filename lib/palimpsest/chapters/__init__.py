"""An experiment for each chapter, with its claims, figures and tables.

Importing this room pins the arithmetic (`palimpsest.arithmetic`) and, where there is no CUDA device, has Triton run
in its interpreter; libraries read both as they start, so import it before torch, numpy and triton. Pages, commands,
workers and tests then compute in one environment, and find each other's rows in the cache.
"""

import os

from palimpsest import arithmetic

arithmetic.pin()

import torch  # noqa: E402 (only now)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
