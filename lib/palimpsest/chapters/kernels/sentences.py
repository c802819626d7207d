"""What is seen in figures of the kernels chapter, a sentence each, with the figure's own numbers."""

import pandas as pd

from palimpsest.chapters.kernels.figures import DEVICES


def share_of_copy(bench: dict[str, pd.DataFrame]) -> str:
    """`bench`: the recorded rows by device."""
    said = []
    for device, table in bench.items():
        rows = table[(table.peer == "palimpsest") & (table.direction == "forward") & table.p50_ms.notna()]
        if rows.empty:
            said.append(f"{DEVICES[device]}: not run.")
            continue
        shares = 100 * rows.groupby("op").share_of_copy.median()
        said.append(
            f"{DEVICES[device]}: forward, the median share runs from {shares.min():.0f} % ({shares.idxmin()}) to "
            f"{shares.max():.0f} % ({shares.idxmax()})."
        )
    return " ".join(said)
