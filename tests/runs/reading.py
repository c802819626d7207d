"""Functions that can read shipped files, or cannot, for the tests of the keys."""

from collections.abc import Callable

from palimpsest.data import fashion_mnist


def reader() -> Callable:
    return fashion_mnist.load


def constant() -> tuple:
    return fashion_mnist.CLASSES


def literal() -> str:
    return "authors/authors.jsonl"


def stranger() -> int:
    return 1
