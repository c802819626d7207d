"""Checks of hyperparameters that methods share."""

import math


def require_number(name: str, value: object, above: float = 0, most: float = math.inf) -> None:
    """Refuse what is not a finite number with above < value <= most."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not above < value <= most:
        limit = "" if most == math.inf else f" and at most {most}"
        raise ValueError(f"{name}: got {value!r}, want a finite number above {above}{limit}")


def require_count(name: str, value: object) -> None:
    """Refuse what is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: got {value!r}, want an integer of at least 1")
