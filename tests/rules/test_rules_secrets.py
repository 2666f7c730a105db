"""Nothing compares a secret by `==`: how long that takes tells how much of a guess is right
(docs/security.md).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "app"
SECRET = {
    "secret",
    "secrets",
    "secret_value",
    "get_secret_value",
    "hash",
    "digest",
    "signature",
    "token",
    "password",
}
NO_SECRETS = {
    "simulator": "a program of its own, for tests",
    "audit": "what a record's hash and a signature are is published",
    "outbox": "the digest of a content tells two contents apart, of one caller",
    "tracking/plan": "the digest of a plan is told to whoever may read it",
}
FILES = sorted(
    path
    for path in APP.rglob("*.py")
    if not any(path.is_relative_to(APP / one) for one in NO_SECRETS)
)


def names(node: ast.expr) -> Iterator[str]:
    """What an operand is called by: a variable, an attribute, a function that makes it."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Call):
        yield from names(node.func)


def compared(tree: ast.AST) -> Iterator[int]:
    """The lines where something that is called like a secret is compared."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(how, ast.Eq | ast.NotEq) for how in node.ops
        ):
            operands = [node.left, *node.comparators]
            if any(name.lstrip("_") in SECRET for one in operands for name in names(one)):
                yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(APP)))
def test_secrets_are_compared_in_constant_time(path: Path) -> None:
    assert list(compared(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line", ["a.hash == b", "keys.digest(key) != given", "x == s.get_secret_value()"]
)
def test_the_rule_sees_a_comparison(line: str) -> None:
    assert list(compared(ast.parse(line))) == [1]
