"""The idea of a kernel in one drawing: how often a formula, written in torch, walks through memory."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.figures import COLOURS

WORDS = {"_log_softmax": "log_softmax", "exp": "exp", "mul": "times", "sum": "sum", "neg": "minus"}


class Walks(TorchDispatchMode):
    """Notes of every operation its name, and how many tensors as large as `unit` bytes it reads and writes."""

    def __init__(self, unit: int):
        super().__init__()
        self.unit, self.found = unit, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            read, written = (
                sum(x.nbytes for x in tensors if isinstance(x, Tensor)) // self.unit for tensors in (args, [result])
            )
            self.found.append((func.overloadpacket.__name__, read, written))
        return result


def walks(rows: int = 64, length: int = 500) -> list[tuple[str, int, int]]:
    """(operation, matrices read, matrices written) of the entropy of a softmax of [rows, length] logits in torch;
    operations on results alone, a number per row, are left out."""
    logits = torch.zeros(rows, length)
    with Walks(logits.nbytes) as seen:
        log_p = logits.log_softmax(-1)
        -(log_p.exp() * log_p).sum(-1)
    return [(WORDS[name], read, written) for name, read, written in seen.found if read]


def idea() -> Figure:
    """A row per operation, a box per matrix that it reads or writes; below them the kernel."""
    rows = [*walks(), ("one kernel", 1, 0)]
    figure, axis = plt.subplots(figsize=(8.4, 3.0), layout="constrained")
    start = 0
    for place, (name, read, written) in enumerate(rows):
        if name == "one kernel":
            axis.axhline(place - 0.5, color="0.35", linewidth=1)
            start = 0
        for colour, word, count in ((COLOURS[0], "read", read), (COLOURS[1], "write", written)):
            for _ in range(count):
                axis.barh(place, 0.92, left=start, color=colour)
                axis.text(start + 0.46, place, word, ha="center", va="center", color="white", fontsize=9)
                start += 1
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axis.set(xlabel="walks through a matrix of logits, one after the other")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    return figure
