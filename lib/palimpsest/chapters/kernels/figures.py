"""The tables and figures of the kernels chapter: from `data/bench` and from what the chapter measures itself.

A benchmark that was not recorded, an op's or a device's, is shown as "not run" and never left out.
"""

import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from palimpsest.figures import COLOURS
from palimpsest.kernels.bench import COLUMNS, available
from palimpsest.kernels.tolerances import tolerance
from palimpsest.runs import paths

DEVICES = {"cpu": "CPU, one thread", "cuda": "GPU"}

OPERATIONS = {
    "jensen_shannon": lambda n, c, d: 9 * n * c * d,
    "lsq_quantize": lambda *shape: 5 * math.prod(shape),
    "masked_adamw_": lambda tensors, n: 15 * tensors * n,
    "project_orthogonal": lambda tensors, n: 9 * tensors * n,
    "softmax_entropy": lambda n, k: 6 * n * k,
    "token_logprob": lambda t, d, v: 2 * t * d * v,
    "topk_confidence": lambda n, v, k: n * v,
    "tree_attention": lambda b, h, h_kv, t, prefix, d: 4 * b * h * t * (prefix + t) * d,
}
"""Forward operations that the formula asks for, from a benchmark's shape: each sum, product, quotient, root,
exponential, logarithm, rounding or comparison is one. Ops that only move numbers have no entry."""


def recorded(device: str) -> pd.DataFrame:
    """Every row of ``data/bench/<op>.<device>.csv``, for all ops that have a benchmark; no rows if none was run."""
    files = [paths.DATA / "bench" / f"{op}.{device}.csv" for op in available()]
    tables = [pd.read_csv(file, dtype={"shape": str}) for file in files if file.exists()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _measured(bench: pd.DataFrame, peer: str) -> pd.DataFrame:
    return bench[(bench.peer == peer) & bench.p50_ms.notna()]


def _not_run(axis: Axes) -> None:
    axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", va="center", fontsize=13, color="0.4")
    axis.set_xticks([])


def tolerances(errors: pd.DataFrame) -> Figure:
    """Measured error (solid) and admitted error (dashed) over the number of terms, one panel per quantity.

    `errors` has the columns quantity; what, the name of a line; dtype, in which the quantity is stored, such as
    "float16"; length; and error, the largest one relative to its sum of |terms|.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), sharey=True)
    for axis, (quantity, group) in zip(axes, errors.groupby("quantity", sort=False), strict=True):
        for i, (what, rows) in enumerate(group.groupby("what", sort=False)):
            admitted = [tolerance(getattr(torch, dtype), n) for dtype, n in zip(rows.dtype, rows.length, strict=True)]
            axis.plot(rows.length, admitted, linestyle="--", color=COLOURS[i])
            axis.plot(rows.length, rows.error, marker="osD"[i], color=COLOURS[i], label=what)
        axis.set(xscale="log", yscale="log", xlabel="K, terms in a sum", title=quantity)
        axis.legend(fontsize=8, loc="lower center")
    axes[0].set_ylabel("error / sum of |terms|")
    axes[0].set_ylim(bottom=2e-10)  # room for the legends
    figure.tight_layout()
    return figure


def roofline(bench: pd.DataFrame) -> Figure:
    """Forward operations per second against operations per byte, under the roof that the recorded copy sets."""
    figure, axis = plt.subplots(figsize=(8.4, 4.2))
    rows = bench.query("direction == 'forward' and dtype == 'float32' and p50_ms.notna() and op in @OPERATIONS")
    if rows.empty:
        _not_run(axis)
        return figure
    count = [OPERATIONS[op](*map(int, shape.split("x"))) for op, shape in zip(rows.op, rows["shape"], strict=True)]
    billions = pd.Series(count, rows.index) / 1e9
    rows = rows.assign(rate=1e3 * billions / rows.p50_ms, intensity=1e3 * billions / (rows.gb_per_s * rows.p50_ms))
    for i, op in enumerate(OPERATIONS):
        for peer, face, label in (("eager", "none", None), ("palimpsest", COLOURS[i], op)):
            here = rows[(rows.op == op) & (rows.peer == peer)]
            look = {"marker": "osD^vph*"[i], "s": 36, "facecolors": [face], "edgecolors": [COLOURS[i]], "zorder": 3}
            axis.scatter(here.intensity, here.rate, label=None if here.empty else label, **look)
    copy, peak = (rows.gb_per_s / rows.share_of_copy).median(), rows.rate.max()
    bend = peak / copy
    ends = pd.Series([min(rows.intensity.min(), bend / 4) / 2, bend, 2 * max(rows.intensity.max(), bend)])
    axis.plot(ends, (copy * ends).clip(upper=peak), color="0.35", zorder=2)
    offset = {"textcoords": "offset points", "fontsize": 8}
    middle = math.sqrt(ends[0] * bend)
    axis.annotate(f"copy, {copy:.1f} GB/s", (middle, copy * middle), xytext=(-8, 4), ha="right", **offset)
    axis.annotate(f"fastest here, {peak:.0f}·10⁹/s", (ends[2], peak), xytext=(0, 5), ha="right", **offset)
    axis.set(xscale="log", yscale="log", ylim=(rows.rate.min() / 2, peak * 3))
    axis.set(xlabel="operations per byte of least traffic", ylabel="10⁹ operations per second")
    axis.set_title("Filled: ours. Hollow: the formula in eager torch")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    return figure


def share_of_copy(bench: dict[str, pd.DataFrame]) -> Figure:
    """One panel per device: the share of the copy's bandwidth that each op reaches, a mark per shape and dtype."""
    ops = available()
    figure, axes = plt.subplots(1, len(bench), figsize=(8.4, 0.42 * len(ops) + 1.6), sharey=True)
    for axis, (device, table) in zip(axes, bench.items(), strict=True):
        axis.set(xlabel="share of the copy's bandwidth, %", title=DEVICES[device])
        if table.empty:
            _not_run(axis)
            continue
        rows = _measured(table, "palimpsest")
        for i, direction in enumerate(("forward", "backward")):
            here = rows[rows.direction == direction]
            at = [len(ops) - 1 - ops.index(op) - 0.25 * i for op in here.op]
            axis.scatter(100 * here.share_of_copy, at, marker="os"[i], s=26, color=COLOURS[i], zorder=3)
        for op in set(ops) - set(rows.op):
            at = {"transform": axis.get_yaxis_transform(), "va": "center", "backgroundcolor": "white"}
            axis.text(0.03, len(ops) - 1 - ops.index(op), "not run", fontsize=8, color="0.4", **at)
        axis.axvline(100, color="0.35", linewidth=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0].set_yticks(range(len(ops)), ops[::-1])
    axes[0].set_ylim(-0.7, len(ops) - 0.5)
    _legend(figure, {"forward": ("o", COLOURS[0]), "backward": ("s", COLOURS[1])})
    return figure


def _legend(figure: Figure, marks: dict[str, tuple]) -> None:
    handles = [Line2D([], [], linestyle="", marker=m, color=c, label=name) for name, (m, c) in marks.items()]
    figure.legend(handles=handles, loc="upper center", ncols=len(marks), fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))


def peers(bench: pd.DataFrame) -> Figure:
    """One panel per op: how many times faster than eager each peer is, by shape and direction, medians."""
    ops = available()
    rows = math.ceil(len(ops) / 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9.0, (2.3 if len(bench) else 0.9) * rows + 0.6))
    for axis, op in zip(axes.flat, ops, strict=False):
        table = bench[bench.op == op]
        axis.set_title(op, fontsize=9)
        if table.empty:
            _not_run(axis)
            axis.set_yticks([])
        else:
            _ratios(axis, table)
    for axis in axes.flat[len(ops) :]:
        axis.set_axis_off()
    figure.supxlabel("times faster than eager, which is the line at 1", fontsize=9)
    _legend(figure, {"ours": ("o", COLOURS[0]), "torch.compile": ("s", COLOURS[1]), "named peer": ("D", COLOURS[2])})
    return figure


def _ratios(axis: Axes, table: pd.DataFrame) -> None:
    cases = list(dict.fromkeys(zip(table["shape"], table.dtype, table.direction, strict=True)))
    for row in table[table.speed_vs_eager.notna() & (table.peer != "eager")].itertuples():
        mark = {"palimpsest": 0, "torch.compile": 1}.get(row.peer, 2)
        at = len(cases) - 1 - cases.index((row.shape, row.dtype, row.direction))
        axis.scatter(row.speed_vs_eager, at, marker="osD"[mark], s=22, color=COLOURS[mark], zorder=3 - 0.1 * mark)
    axis.axvline(1, color="0.35", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    short = {"forward": "fwd", "backward": "bwd", "float32": "", "bfloat16": " bf16", "float16": " fp16"}
    names = [f"{shape.replace('x', '×')}{short[dtype]} {short[direction]}" for shape, dtype, direction in cases]
    axis.set_yticks(range(len(cases)), names[::-1], fontsize=6.5)
    axis.set_ylim(-0.6, len(cases) - 0.4)
    axis.tick_params(axis="x", labelsize=7)


def slower_than_naive(bench: pd.DataFrame) -> pd.DataFrame:
    """One row per op: its smallest ratio to eager, where, and whether it is slower anywhere beyond the noise.

    Beyond the noise means that our 20 % quantile is above eager's 80 % quantile.
    """
    found, verdict = [], "slower beyond the noise"
    for op in available():
        table = bench[bench.op == op]
        ours, eager = _measured(table, "palimpsest"), _measured(table, "eager")
        both = ours.merge(eager, on=["shape", "dtype", "direction"], suffixes=("", "_eager"))
        if both.empty:
            found.append({"op": op, verdict: "not run"})
            continue
        worst, slower = both.loc[both.speed_vs_eager.idxmin()], int((both.p20_ms > both.p80_ms_eager).sum())
        at = f"{worst['shape'].replace('x', '×')} {worst['dtype']}, {worst.direction}"
        ratios = {"times faster, median": round(both.speed_vs_eager.median(), 2)}
        ratios |= {"least": round(worst.speed_vs_eager, 2), "where": at, "cases": str(len(both))}
        found.append({"op": op, **ratios, verdict: f"yes, in {slower} of {len(both)}" if slower else "no"})
    return pd.DataFrame(found, columns=["op", "cases", "times faster, median", "least", "where", verdict])
