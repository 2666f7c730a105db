"""YAML as data that knows its lines. Scalars are read as YAML 1.2 does: `off` and `NO` are words, a
day is text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from app.errors import StartRefused

Path = tuple[str | int, ...]
MAX_NODES = 200_000  # of one file, those that aliases repeat counted each time
DIGITS = re.compile(r"[-+]?[0-9]+")
_Loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class Loader(_Loader):  # type: ignore[misc]
    """PyYAML's parser without YAML 1.1's guesses."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # the class is read by PyYAML like this


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", [*"tTfF"]),
    ("int", r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", [*"-+0123456789"]),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", [*"-+0123456789."]),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


@dataclass(frozen=True, slots=True)
class Told:
    """Something to tell of a plan: where (a file's name, a line, a path in it), and what. `fatal`:
    it can't be loaded like this.
    """

    file: str
    line: int
    path: str
    detail: str
    fatal: bool = True

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.detail}" if self.path else f"{where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Text:
    """One file as data. `lines`: of what stands at a path."""

    file: str
    content: Any
    lines: dict[Path, int]

    def told(self, path: Sequence[str | int], detail: str, *, fatal: bool = True) -> Told:
        """The same at its place: the line of the path, or of the nearest thing above it that is in
        the file.
        """
        at = tuple(path)
        while at and at not in self.lines:
            at = at[:-1]
        return Told(self.file, self.lines.get(at, 1), ".".join(map(str, path)), detail, fatal)


class _Bad(Exception):
    def __init__(self, line: int, detail: str) -> None:
        super().__init__(detail)
        self.line, self.detail = line, detail


def read(file: str, text: str) -> Text | Told:
    """The data of a file's text, or what keeps it from being read."""
    try:
        node = yaml.compose(text, Loader=Loader)
        lines: dict[Path, int] = {}
        return Text(file, None if node is None else _Walk(lines).value(node, ()), lines)
    except _Bad as bad:
        return Told(file, bad.line, "", bad.detail)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Told(
            file, mark.line + 1 if mark else 0, "", f"is not YAML: {error.problem or error.context}"
        )
    except yaml.YAMLError:
        return Told(file, 0, "", "is not YAML: it has a character that YAML does not take")
    except RecursionError:
        return Told(file, 0, "", "is nested too deeply")


class _Walk:
    """From YAML's nodes to values."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines, self._seen = lines, 0
        self._open: set[int] = set()

    def value(self, node: Any, path: Path) -> Any:
        """The value of a node; where it and all in it stand goes into the lines."""
        self._seen += 1
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if self._seen > MAX_NODES:
            raise _Bad(line, f"has more than {MAX_NODES} values")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, line)
        if id(node) in self._open:
            raise _Bad(line, "has an alias inside what it stands for")
        self._open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            made: Any = [self.value(one, (*path, index)) for index, one in enumerate(node.value)]
        else:
            made = self._mapping(node, path)
        self._open.discard(id(node))
        return made

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Bad(line, "a key must be text")
            key = str(key_node.value)  # 404 as a name is text, however YAML would read it
            if key in made:
                raise _Bad(line, f"{'.'.join(map(str, (*path, key)))} is there twice")
            self._lines[(*path, key)] = line
            made[key] = self.value(value_node, (*path, key))
        return made


def _scalar(node: Any, line: int) -> Any:
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _whole(text, line)
    if kind == "float":
        return float(text)
    raise _Bad(line, f"the tag {node.tag} is not taken")


def _whole(text: str, line: int) -> int:
    value = int(text, 10 if DIGITS.fullmatch(text) else 16) if len(text) < 100 else 2**64
    if not -(2**63) <= value < 2**63:
        raise _Bad(line, "whole numbers have at most 64 bits")
    return value


def refused(found: Sequence[Told]) -> StartRefused:
    """The refusal that tells all of them."""
    return StartRefused(*map(str, found))
