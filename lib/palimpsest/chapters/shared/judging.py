"""Words that every chapter uses for what it judges: estimates in text, comparisons won and lost."""

from palimpsest.metrics.statistics import Estimate, holm


def show(e: Estimate, unit: str = "points", digits: int = 1) -> str:
    """A difference with its sign and its 95 % interval."""
    return f"{e.mean:+.{digits}f} {unit} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def level(e: Estimate, unit: str = "%") -> str:
    """As `show`, of what is no difference."""
    return f"{e.mean:.1f} {unit} [{e.low:.1f}, {e.high:.1f}]"


def listed(differences: dict[str, Estimate]) -> str:
    """Each by its name, as `show` says it, in points."""
    return "; ".join(f"{name} {show(e)}" for name, e in differences.items())


def ahead(differences: dict[str, Estimate]) -> set[str]:
    """The names where the difference is positive and survives Holm's correction over all of them."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean > 0}


def behind(differences: dict[str, Estimate]) -> set[str]:
    """As `ahead`, where the difference is negative."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean < 0}


def names(found: set[str]) -> str:
    """How many, and which."""
    return f"{len(found)} ({', '.join(sorted(found))})" if found else "none"


def strongest(differences: dict[str, Estimate]) -> str:
    """The rival against which the difference is least."""
    return min(differences, key=lambda name: differences[name].mean)


def against(who: str, differences: dict[str, Estimate]) -> str:
    """A sentence: whom `who` is ahead of and behind, Holm-corrected, and which rival is the strongest."""
    return (
        f"Of {len(differences)} rivals {who} is ahead of {names(ahead(differences))} and behind "
        f"{names(behind(differences))} (Holm-corrected); the strongest is {strongest(differences)}."
    )
