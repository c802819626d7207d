"""Take out of stylesheets the rules and the custom properties that no page uses."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import tinycss2

WORD = re.compile(r"[\w-]+")
CUSTOM = re.compile(r"var\(\s*(--[\w-]+)|[\"'](--[\w-]+)")
"""Where a custom property is read: in a style, or by a script that spells its name."""


def used(css: str, words: set[str]) -> str:
    """The rules of `css` whose classes and ids all stand among `words`, and the animations that these name."""
    kept = "".join(_used(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), words))
    rules = tinycss2.parse_stylesheet(kept)
    named = set(WORD.findall("".join(rule.serialize() for rule in rules if not _is_animation(rule))))
    return "".join(
        rule.serialize() for rule in rules if not _is_animation(rule) or not named.isdisjoint(_idents(rule.prelude))
    )


def _is_animation(rule: tinycss2.ast.Node) -> bool:
    return rule.type == "at-rule" and rule.lower_at_keyword.endswith("keyframes")


def _idents(tokens: list) -> set[str]:
    return {token.value for token in tokens if token.type == "ident"}


def _used(rules: list, words: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content is not None:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            body = "".join(_used(inner, words))
            if body:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{body}}}"
        elif rule.type == "qualified-rule":
            selectors = [s for s in _split(rule.prelude, ",") if _names(s) <= words]
            if selectors:
                heads = ",".join(tinycss2.serialize(selector).strip() for selector in selectors)
                yield f"{heads}{{{tinycss2.serialize(rule.content)}}}\n"
        else:
            yield rule.serialize()


def _split(tokens: list, mark: str) -> list[list]:
    """`tokens` in parts at each `mark`: the selectors of a rule, the declarations of a block."""
    found = [[]]
    for token in tokens:
        if token == mark:
            found.append([])
        else:
            found[-1].append(token)
    return found


def _names(selector: list) -> set[str]:
    """The classes and ids that `selector` asks for; those inside `:not()`, `:is()` and the like are not asked for."""
    classes = {after.value for dot, after in pairwise(selector) if dot == "." and after.type == "ident"}
    return classes | {token.value for token in selector if token.type == "hash"}


def without_unread(styles: dict[Path, str], others: list[str]) -> dict[Path, str]:
    """`styles` without the custom properties that neither they nor `others`, the pages and scripts, read."""
    while True:
        texts = [*styles.values(), *others]
        read = {name for text in texts for names in CUSTOM.findall(text) for name in names}
        shorter = {path: _declaring(css, read) for path, css in styles.items()}
        if shorter == styles:
            return styles
        styles = shorter


def _declaring(css: str, read: set[str]) -> str:
    """`css` with those custom properties alone that stand in `read`."""
    return "".join(_kept(tinycss2.parse_stylesheet(css), read))


def _kept(rules: list, read: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content is not None:
            body = "".join(_kept(tinycss2.parse_rule_list(rule.content), read))
            yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{body}}}"
        elif rule.type == "qualified-rule":
            parts = _split(rule.content, ";")
            kept = [tinycss2.serialize(part) for part in parts if not _custom(part) or _custom(part) in read]
            yield f"{tinycss2.serialize(rule.prelude)}{{{';'.join(kept)}}}"
        else:
            yield rule.serialize()


def _custom(declaration: list) -> str:
    """The custom property that `declaration` sets, or nothing."""
    name = next((token.value for token in declaration if token.type not in ("whitespace", "comment")), "")
    return name if isinstance(name, str) and name.startswith("--") else ""
