"""Checks of single arguments that all rooms share: what came, and what is wanted, in one wording."""

import math
from collections.abc import Collection


def require_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}, want an integer of at least {least}")


def require_number(
    name: str, value: object, *, above: float = 0, least: float | None = None, most: float = math.inf
) -> None:
    """Refuse what is not a finite number above `above` or, where that is given, of at least `least`; and at most
    `most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value > above if least is None else value >= least) or value > most:
        limit = f"above {above}" if least is None else f"of at least {least}"
        limit += "" if most == math.inf else f" and at most {most}"
        raise ValueError(f"{name}: got {value!r}, want a finite number {limit}")


def require_choice(name: str, value: object, choices: Collection) -> None:
    """Refuse what is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, want one of {choices}")
