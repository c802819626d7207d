"""The Jupyter kernel that executes the chapters must be of this environment."""

import os
import sys
from pathlib import Path

from jupyter_client import KernelManager

NAME = "python3"


def require() -> None:
    """Raise RuntimeError where Jupyter would start another Python than this one under the name of its kernel, as it
    does where a folder of JUPYTER_PATH, which comes before the environment's own, has a kernel of that name."""
    manager = KernelManager(kernel_name=NAME)
    started = manager.format_kernel_cmd()[0]
    if Path(started).parent == Path(sys.executable).parent:
        return
    named = f", and JUPYTER_PATH is {os.environ['JUPYTER_PATH']}" if os.environ.get("JUPYTER_PATH") else ""
    raise RuntimeError(
        f"kernel {NAME}: {manager.kernel_spec.resource_dir} starts {started}, want {sys.executable}{named}. "
        f"Chapters run in this environment: unset JUPYTER_PATH, or take that folder away (`jupyter kernelspec list`)"
    )
