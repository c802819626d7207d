"""`make drills`: all drills, their figures into `data/bench/drills.cpu.csv`.

Done in blocks that are cached: it can be stopped, and goes on. The rows are written anew after each block, so a row
says how many were tried so far.
"""

import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import palimpsest.chapters  # noqa: F401 (pins the arithmetic before numpy and torch are imported)
from palimpsest import runs
from palimpsest.data.drill_rows import Row, write
from palimpsest.drills import changes, inputs, kills
from palimpsest.drills.cases import CASES

SEED = 0
INPUTS, IN_A_BLOCK = 10_000, 500
KILLS = {"study": 40, "decode": 70, "unlearn": 80, "chapter": 10}
KILLS_IN_A_BLOCK = 10


def plan() -> list[tuple[str, str, Callable, dict]]:
    """(drill, part, function, its arguments) of every block."""
    blocks, each = [], -(-INPUTS // len(CASES))
    for name in CASES:
        for start in range(0, each, IN_A_BLOCK):
            stop = min(start + IN_A_BLOCK, each)
            arguments = {"name": name, "seed": SEED, "start": start, "stop": stop}
            blocks.append(("inputs", name, inputs.block, arguments))
    for name in changes.FILES:
        blocks.append(("changes", name, changes.block, {"name": name, "seed": SEED}))
    for first in range(0, max(KILLS.values()), KILLS_IN_A_BLOCK):  # of all in turn: none is left out by an early end
        for name, number in KILLS.items():
            if first < number:
                many = min(KILLS_IN_A_BLOCK, number - first)
                blocks.append(
                    ("kills", name, kills.block, {"name": name, "seed": SEED, "first": first, "kills": many})
                )
    return blocks


def main(drills: list[str]) -> None:
    """The drills named, all where none is."""
    blocks = [block for block in plan() if not drills or block[0] in drills]
    environment, counts = runs.environment(), {}
    with runs.progress_bar(total=len(blocks), desc="drills") as bar:
        for drill, part, function, arguments in blocks:
            bar.set_postfix_str(f"{drill}: {part}", refresh=True)
            counts[drill, part] = counts.get((drill, part), Counter()) + Counter(runs.cached(function, arguments))
            write(Row.of(drill, part, SEED, counts[drill, part], environment, datetime.now(UTC).strftime("%Y-%m-%d")))
            bar.update()


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - {"inputs", "changes", "kills"}
    if unknown:
        sys.exit(f"drills: got {sorted(unknown)}, want inputs, changes, kills, or none for all")
    main(sys.argv[1:])
