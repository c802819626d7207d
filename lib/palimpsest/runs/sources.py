"""The source that a function can run, statement by statement: what a cache key hashes.

A function's closure begins with the top-level statement that defines it, and grows by every top-level statement that
binds a name which occurs in it, in its own module or, along imports, in another one of the project.

Why it misses nothing. Code of the project runs because running code names it, or at import.
- Named: every name that occurs in a statement counts, wherever in it and whatever it stands for there; a class
  counts with all its methods and bases. A module that is used otherwise than as `module.name`, or does not bind the
  name asked of it, counts whole; where code looks names up by strings (`is_dynamic`), all of the project counts.
- At import: of each module in reach, of the packages around it and of all that these import, every statement counts
  that may do more than bind its names (`acts`): a bare call, an `if`, a store into a registry, an import that nothing
  uses, a definition under a decorator that may register it, a value computed by a function of the project. So a
  registry that is filled at import counts with all that fills it.
What is left is a convention, and a test refuses its breach: constructors make their object and register nothing, no
class acts on its subclasses, and there are no star imports. Other packages count by version (`runs.machine`).

Where Triton cannot run, the branches `if chosen == "triton":` of the kernels are dead, and left out.
"""

import ast
import hashlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import palimpsest

from .statements import IMPORTS, acts, binds, chains, is_dynamic, parsed, split

Target = tuple[str, tuple[str, ...]]
"""A module, and the attributes that are taken of it one after the other."""


@dataclass(frozen=True)
class Closure:
    """The statements in reach of a function: their digest, and what is asked about them besides."""

    digest: str
    modules: frozenset[str]
    """The modules that they lie in."""
    texts: frozenset[str]
    """Every string that occurs in them."""


def triton_runs() -> bool:
    """Whether Triton can run in this process, compiled or interpreted."""
    return torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def closure(function: Callable, *, triton: bool | None = None) -> Closure:
    """The closure of `function`; `triton`: with the branches of Triton, None where Triton can run."""
    name = function.__qualname__.partition(".")[0]
    return _closure(function.__module__, name, triton_runs() if triton is None else triton)


@cache
def _closure(module: str, name: str, triton: bool) -> Closure:
    walk = _Walk(triton)
    walk.look_up((module, (name,)))
    found = [(owner, _module(owner, triton).statements[index]) for owner, index in sorted(walk.reached)]
    digest = hashlib.sha256()
    for owner, statement in found:
        digest.update(f"{owner}\0{ast.dump(statement)}\0".encode())
    constants = {
        node.value for _, statement in found for node in ast.walk(statement) if isinstance(node, ast.Constant)
    }
    texts = frozenset(value for value in constants if isinstance(value, str))
    return Closure(digest.hexdigest(), frozenset(owner for owner, _ in found), texts)


@cache
def project() -> dict[str, Path]:
    """Every module of the project and its file, without importing any."""
    found = {}
    for root in map(Path, palimpsest.__path__):
        for file in root.rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(("palimpsest", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return found


@cache
def _texts() -> dict[str, bytes]:
    """The source of every module, read at once: what is edited later is not what this process runs."""
    return {name: file.read_bytes() for name, file in project().items()}


@cache
def _module(name: str, triton: bool) -> "_Module":
    return _Module(name, triton)


class _Module:
    """The top-level statements of a module, what they bind, and what the imports anywhere in it bind."""

    def __init__(self, name: str, triton: bool):
        # The function itself may lie outside the project: in a test.
        file = project().get(name) or Path(importlib.util.find_spec(name).origin)
        text = _texts()[name] if name in project() else file.read_bytes()
        self.name, self.package = name, name if file.name == "__init__.py" else name.rpartition(".")[0]
        tree = parsed(text, without_triton=not triton and name.startswith("palimpsest.kernels."))
        self.statements = [part for statement in tree.body for part in split(statement)]
        self.bound, self.targets = defaultdict(list), defaultdict(list)
        for index, statement in enumerate(self.statements):
            for bound in binds(statement):
                self.bound[bound].append(index)
        used = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, IMPORTS):
                for part in split(node):
                    self.targets[next(iter(binds(part)))] += self.imported(part)
        foreign = {name for name, indices in self.bound.items() if self._foreign(name, indices)}
        self.acting = [i for i, statement in enumerate(self.statements) if acts(statement, used, foreign)]

    def _foreign(self, name: str, indices: list[int]) -> bool:
        return not self.targets.get(name) and all(isinstance(self.statements[i], IMPORTS) for i in indices)

    def imported(self, part: ast.Import | ast.ImportFrom) -> list[Target]:
        """What an import of one name binds it to, if that is of the project."""
        (alias,) = part.names
        if isinstance(part, ast.Import):
            target = (alias.name if alias.asname else alias.name.partition(".")[0]), ()
        else:
            base = "." * part.level + (part.module or "")
            base = importlib.util.resolve_name(base, self.package) if part.level else base
            target = base, (alias.name,)
            if base == self.name and f"{base}.{alias.name}" in project():  # a package takes a submodule of its own
                return [target, (f"{base}.{alias.name}", ())]
        return [target] if target[0] in project() else []

    def loads(self, statement: ast.stmt) -> Iterator[str]:
        """The modules that the imports in `statement` load, those around them aside."""
        for node in ast.walk(statement):
            for part in split(node) if isinstance(node, IMPORTS) else ():
                names = [part.names[0].name] if isinstance(part, ast.Import) else []
                for base, attributes in self.imported(part):
                    names += [base, ".".join((base, *attributes))]
                yield from (name for name in names if name in project())


class _Walk:
    def __init__(self, triton: bool):
        self.triton = triton
        self.reached: set[tuple[str, int]] = set()
        self.loaded: set[str] = set()

    def look_up(self, *start: Target) -> None:
        """Reach whatever `start` stands for, and all that it leads to."""
        seen, waiting = set(), list(start)
        while waiting:
            target = waiting.pop()
            if target not in seen:
                seen.add(target)
                waiting += self.load(target[0])
                waiting += self.found(*target)

    def found(self, name: str, attributes: tuple[str, ...]) -> Iterator[Target]:
        module, first, rest = _module(name, self.triton), "".join(attributes[:1]), attributes[1:]
        for index in module.bound.get(first, ()):
            yield from self.reach(name, index)
        yield from ((target, (*path, *rest)) for target, path in module.targets.get(first, ()))
        if first in module.bound:
            return
        if f"{name}.{first}" in project():
            yield f"{name}.{first}", rest
        elif first not in module.targets and first not in ("__name__", "__file__"):
            for index, statement in enumerate(module.statements):
                yield from self.reach(name, index)
                yield from ((name, (bound,)) for bound in binds(statement))

    def reach(self, name: str, index: int) -> Iterator[Target]:
        """Count a statement, and yield what it names."""
        module = _module(name, self.triton)
        statement = module.statements[index]
        if (name, index) in self.reached:
            return
        self.reached.add((name, index))
        if isinstance(statement, IMPORTS):
            return
        for loaded in module.loads(statement):
            yield from self.load(loaded)
        for root, attributes in chains(statement):
            if is_dynamic(root, attributes):
                yield from ((other, ()) for other in project())
            if root in module.bound or root in module.targets:
                yield name, (root, *attributes)

    def load(self, name: str) -> Iterator[Target]:
        """What the import of a module runs: there, in the packages around it and in what these import."""
        while name and name not in self.loaded:
            self.loaded.add(name)
            module = _module(name, self.triton)
            for index in module.acting:
                yield from self.reach(name, index)
            for statement in module.statements:
                if isinstance(statement, IMPORTS):
                    for loaded in module.loads(statement):
                        yield from self.load(loaded)
            name = name.rpartition(".")[0] if name in project() else ""
