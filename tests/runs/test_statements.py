"""What is asked about statements: whether they act at import, and whether they reach what they do not name."""

import ast

import pytest

from palimpsest.runs.statements import acts, is_dynamic


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("register()", True),
        ("if x: pass", True),
        ("pass", False),
        ("x = 1", False),
        ("x: int", False),
        ("x = made()", True),
        ("x: int = made()", True),
        ("x = [made() for _ in y]", True),
        ("x = lambda: made()", False),  # not yet
        ("x = Made()", False),  # constructors register nothing
        ("x = len(y)", False),
        ("x = foreign.made()", False),
        ("x['a'] = 1", True),
        ("x.a = 1", True),
        ("def f(x=made()): pass", True),
        ("def f(*, x=made()): pass", True),
        ("def f(x=1, *, y): made()", False),
        ("@register\ndef f(): pass", True),
        ("@register('a')\nclass A: pass", True),
        ("@functools.cache\ndef f(): pass", False),
        ("class A(B): x = 1", False),
        ("class A(B, key=1): pass", True),
        ("class A:\n    register()", True),
        ("class A:\n    @register\n    def f(self): pass", True),
        ("import foreign", False),
        ("import unused", True),
        ("from project import unused", False),  # what the project's own modules do is found there
    ],
)
def test_what_acts_at_import(code, expected):
    (statement,) = ast.parse(code).body
    foreign = set() if "project" in code else {"foreign", "unused"}
    assert acts(statement, {"foreign", "x", "y"}, foreign) == expected


@pytest.mark.parametrize(
    ("root", "attributes", "expected"),
    [
        ("eval", (), True),
        ("exec", (), True),
        ("globals", (), True),
        ("__import__", (), True),
        ("import_module", (), True),
        ("importlib", ("import_module",), True),
        ("importlib", ("metadata", "version"), False),
        ("", ("__subclasses__",), True),
        ("sys", ("modules", "get"), True),
        ("sys", ("path",), False),
        ("model", ("eval",), False),  # a network's mode, not the function
    ],
)
def test_what_reaches_more_than_it_names(root, attributes, expected):
    assert is_dynamic(root, attributes) == expected
