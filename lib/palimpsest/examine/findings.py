"""What was found about a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Use:
    """One thing that the project does. `why` says why it cannot be done with the model, and is None where it can;
    `detail` how far, with which methods, at what cost."""

    name: str
    why: str | None
    detail: str = ""


@dataclass(frozen=True)
class Findings:
    """`facts`: what the model is, by name, in words or numbers; `uses`: everything that the project does with models
    of its kind."""

    model: str
    facts: dict[str, str | int | float]
    uses: list[Use]


def attempt(function: Callable[..., T], *arguments) -> tuple[T | None, str | None]:
    """(what the function gives, None), or (None, why it refuses)."""
    try:
        return function(*arguments), None
    except ValueError as error:
        return None, str(error)


def counted(refused: dict[str, str], names: list[str]) -> str:
    """Which of the methods `names` can be used; by name in `refused`, why the others cannot."""
    lacking = "".join(f", but not {name} ({why})" for name, why in refused.items())
    return f"methods: {', '.join(name for name in names if name not in refused)}{lacking}"
