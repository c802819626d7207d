"""Python statements as `sources` asks about them: what they name, what they bind, whether they act at import."""

import ast
import builtins
from collections.abc import Iterator

DYNAMIC = frozenset({"__import__", "eval", "exec", "globals", "import_module"})
"""Functions by which code reaches what it does not name."""

DYNAMIC_ATTRIBUTES = frozenset({"__subclasses__", "import_module"})

PLAIN = frozenset(
    {
        *("cache", "cached_property", "classmethod", "contextmanager", "dataclass", "inference_mode", "jit"),
        *("lru_cache", "no_grad", "once_differentiable", "property", "setter", "staticmethod", "wraps"),
    }
)
"""Decorators that register nothing anywhere."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def parsed(text: bytes, *, without_triton: bool) -> ast.Module:
    """The tree of a module without docstrings and other constants that stand alone, and, if so wished, without the
    branches that run where `chosen == "triton"`."""
    tree = _WithoutConstants().visit(ast.parse(text))
    return _WithoutTriton().visit(tree) if without_triton else tree


class _WithoutConstants(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


class _WithoutTriton(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "chosen == 'triton'" else node


def split(statement: ast.stmt) -> list[ast.stmt]:
    """`statement`, an import as one import per name."""
    if isinstance(statement, ast.Import):
        return [ast.Import([alias]) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
    return [statement]


def binds(statement: ast.stmt) -> set[str]:
    """The names that a statement, of imports one for one name, binds in its module, and perhaps more."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        (alias,) = statement.names
        return {alias.asname or (alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name)}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, IMPORTS):
            names = names.union(*map(binds, split(node)))
    return names


def chains(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every name that occurs, with the attributes taken of it: `a.b(c)` gives ("a", ("b",)) and ("c", ()); attributes
    of what has no name come with ""."""
    waiting = [node]
    while waiting:
        node, attributes = waiting.pop(), ()
        while isinstance(node, ast.Attribute):
            node, attributes = node.value, (node.attr, *attributes)
        if isinstance(node, ast.Name):
            yield node.id, attributes
        else:
            if attributes:
                yield "", attributes
            waiting += ast.iter_child_nodes(node)


def is_dynamic(root: str, attributes: tuple[str, ...]) -> bool:
    """Whether the name `root.attribute.attribute` reaches what it does not name."""
    return (
        root in DYNAMIC
        or not DYNAMIC_ATTRIBUTES.isdisjoint(attributes)
        or (root, *attributes[:1]) == ("sys", "modules")
    )


def acts(statement: ast.stmt, used: set[str], foreign: set[str]) -> bool:
    """Whether a top-level statement may do more at import than bind its names.

    used: the names that occur in the module; foreign: those of them that it imports from other packages.
    """
    if isinstance(statement, IMPORTS):
        return binds(statement) <= foreign - used
    if isinstance(statement, ast.Pass):
        return False
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        called = [d.func if isinstance(d, ast.Call) else d for d in statement.decorator_list]
        if any(_last(function) not in PLAIN for function in called):
            return True
    if isinstance(statement, ast.ClassDef):
        return bool(statement.keywords) or any(acts(part, used, foreign) for part in statement.body)
    if isinstance(statement, FUNCTIONS):
        values = [*statement.args.defaults, *filter(None, statement.args.kw_defaults)]
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(isinstance(node, ast.Attribute | ast.Subscript) for target in targets for node in ast.walk(target)):
            return True
        values = [statement.value] if statement.value else []
    else:
        return True
    return any(_calls(value, foreign) for value in values)


def _calls(value: ast.expr, foreign: set[str]) -> bool:
    """Whether a function, by its lower-case name, of this project is called when `value` is computed."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Call) and _last(node.func)[:1].islower():
            root = next(chains(node.func), ("", ()))[0]
            if root and root not in foreign and not hasattr(builtins, root):
                return True
        waiting += ast.iter_child_nodes(node)
    return False


def _last(function: ast.expr) -> str:
    """The last name of `a.b.c`; "" of what is no name."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
