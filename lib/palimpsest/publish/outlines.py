"""Write the path data of an SVG shorter: each step from the place before it, on a grid, with no byte too many."""

import re
from decimal import Decimal

TOKEN = re.compile(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0}
"""How many points follow each command that matplotlib writes, all of them in absolute coordinates."""


def number(units: int, grid: Decimal) -> str:
    """`units` steps of `grid`, as SVG reads it in the fewest characters."""
    text = f"{(units * grid).normalize():f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)


def relative(d: str, grid: Decimal, unit: int = 1) -> str:
    """Path data `d` with each point rounded to a multiple of `grid`, written in multiples of `unit`.

    Rounding does not add up along the path.

    Raises `ValueError` for a command that is not one of `POINTS`.
    """
    tokens = TOKEN.findall(d)
    parts: list[str] = []
    last, place, start, at = "", (0, 0), (0, 0), 0
    while at < len(tokens):
        command = tokens[at].upper()
        if command not in POINTS or tokens[at] == command.lower() != "z":
            raise ValueError(f"d: got the command {tokens[at]!r}, want one of {', '.join(POINTS)}")
        at += 1
        count = 2 * POINTS[command]
        units = [round(Decimal(t) / grid) for t in tokens[at : at + count]]
        at += count
        points = list(zip(units[::2], units[1::2], strict=True))
        steps = [(x - place[0], y - place[1]) for x, y in points]
        letter, written = _step(command, steps)
        place = points[-1] if points else start
        start = place if command == "M" else start
        # A repeated command needs no letter, and what follows a move is a line.
        if (letter != last and (letter, last) != ("l", "m")) or letter in "mz":
            parts.append(letter)
        last = letter
        parts += [number(value, grid / unit) for value in written]
    return _joined(parts)


def _step(command: str, steps: list[tuple[int, int]]) -> tuple[str, list[int]]:
    """The relative command and its numbers; a level or upright line needs but one."""
    if command == "L" and steps[0][1] == 0:
        return "h", [steps[0][0]]
    if command == "L" and steps[0][0] == 0:
        return "v", [steps[0][1]]
    return command.lower(), [value for step in steps for value in step]


def _joined(parts: list[str]) -> str:
    """`parts` with blanks only where two numbers would run into one."""
    text = ""
    for part in parts:
        apart = part.isalpha() or not text or text[-1].isalpha() or part[0] == "-"
        text += part if apart else f" {part}"
    return text
