"""How every chapter judges, and the words for it: the verdict's name, estimates in text, comparisons won and lost."""

from palimpsest.metrics.statistics import Estimate, holm


def verdict(holds: bool, trend: bool) -> str:
    """The word for a claim whose rule `holds`, or of which at least a `trend` is there."""
    return "reproduced" if holds else "trend only" if trend else "not reproduced"


def show(e: Estimate, unit: str = "points", digits: int = 1) -> str:
    """A difference with its sign and its 95 % interval."""
    return f"{e.mean:+.{digits}f} {unit} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def level(e: Estimate, unit: str = "%") -> str:
    """As `show`, of what is no difference."""
    return f"{e.mean:.1f} {unit} [{e.low:.1f}, {e.high:.1f}]"


def ahead(differences: dict[str, Estimate]) -> set[str]:
    """The names where the difference is positive and survives Holm's correction over all of them."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean > 0}


def behind(differences: dict[str, Estimate]) -> set[str]:
    """As `ahead`, where the difference is negative."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean < 0}


def names(found: set[str]) -> str:
    """How many, and which."""
    return f"{len(found)} ({', '.join(sorted(found))})" if found else "none"
