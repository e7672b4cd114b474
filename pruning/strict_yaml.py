"""YAML as PyYAML's safe loader reads it (YAML 1.1), with the line of every key, and without its silence.

A key written twice, an alias that holds itself, a tag that makes objects: each is an error with its line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning.problems import Problem, ProblemError, fail

_MAX_NODES = 100_000  # with aliases written out: a few lines can stand for billions
_MEND = "mend the file"


@dataclass(frozen=True)
class Text:
    """A plain scalar that YAML reads as text: ``1e-5`` (of YAML 1.1) is one."""

    key: str
    line: int
    value: str


@dataclass(frozen=True)
class Document:
    path: str  # as the user wrote it
    value: Any
    lines: dict[str, int]  # dotted key, as in ``a.b[0].c``, to its line
    plain_texts: tuple[Text, ...]  # values, not keys, written without quotes

    def at(self, key: str) -> str:
        """``file:line: key``, for the ``where`` of a problem; the line of the nearest key that exists."""
        near = key
        while near and near not in self.lines:
            near = near[: max(near.rfind("."), near.rfind("["), 0)]
        line = f":{self.lines[near]}" if near in self.lines else ""
        return f"{self.path}{line}: {key}" if key else f"{self.path}{line}"

    def locate(self, problem: Problem) -> Problem:
        """The same problem with its line, where it says ``file: key``."""
        start = f"{self.path}: "
        if not problem.where.startswith(start):
            return problem
        return Problem(self.at(problem.where[len(start) :]), problem.what, problem.fix)


class _SafeLoader(yaml.SafeLoader):
    """A class of our own: constructors that someone adds to PyYAML's are not ours."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML lets errors of ``int``, ``date`` and its own patterns through, without the line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, OverflowError, AttributeError) as error:
            what = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}: {error}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None


def read_yaml(path: Path) -> Document:
    """The one document of a file. Raises ``ProblemError`` for whatever is wrong with it as YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte {error.start} cannot be read"
        raise fail(path, what, "save the file as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, path: str) -> Document:
    try:
        loader = _SafeLoader(text)  # looks for characters that YAML does not allow
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(path, None, {}, ())
            walk = _Walk(loader, path)
            walk.visit(node, "")
            if walk.problems:
                raise ProblemError(walk.problems)
            return Document(
                path, loader.construct_document(node), walk.lines, tuple(walk.plain_texts.values())
            )
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        said = [part for part in (error.context, error.problem) if part]
        raise fail(where, f"is not YAML: {', '.join(said)}", _MEND) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"is not YAML: the character {error.character!r} is not allowed"
        raise fail(f"{path}:{line}", what, "remove it") from None
    except yaml.YAMLError as error:
        raise fail(path, f"is not YAML: {' '.join(str(error).split())}", _MEND) from None
    except RecursionError:
        raise fail(path, "nests too deeply to be read", "check the brackets") from None


class _Walk:
    """One pass over the tree of nodes, where the lines are, before values are made of it."""

    def __init__(self, loader: _SafeLoader, path: str) -> None:
        self.lines: dict[str, int] = {}
        self.plain_texts: dict[int, Text] = {}  # by node: an alias does not write it again
        self.problems: list[Problem] = []
        self._loader, self._path = loader, path
        self._above: set[int] = set()
        self._left = _MAX_NODES

    def visit(self, node: yaml.Node, key: str) -> None:
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0:
            what = f"stands for more than {_MAX_NODES:,} values"
            raise fail(f"{self._path}:{line}", what, "write it with fewer aliases")
        if key:
            self.lines.setdefault(key, line)
        if isinstance(node, yaml.ScalarNode):
            if node.style is None and node.tag == "tag:yaml.org,2002:str":
                self.plain_texts.setdefault(id(node), Text(key, line, node.value))
            return
        if id(node) in self._above:
            raise fail(f"{self._path}:{line}: {key}", "holds itself, by its own alias", "write it out")
        self._above.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, f"{key}[{index}]")
        elif isinstance(node, yaml.MappingNode):
            for name, name_node, value in self._entries(node, key):
                self.lines[name] = name_node.start_mark.line + 1
                self.visit(value, name)
        self._above.remove(id(node))

    def _entries(self, node: yaml.MappingNode, key: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        seen: dict[Any, int] = {}
        for name_node, value in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == "tag:yaml.org,2002:merge":
                yield f"{key}.<<" if key else "<<", name_node, value
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                self.problems.append(Problem(f"{self._path}:{line}", "the key is no word or number", _MEND))
                continue
            name = self._loader.construct_object(name_node)
            dotted = f"{key}.{name}" if key else str(name)
            if name in seen:
                what = f"the key {name!r} is written twice, first in line {seen[name]}"
                self.problems.append(Problem(f"{self._path}:{line}: {dotted}", what, "remove one of them"))
                continue
            seen[name] = line
            yield dotted, name_node, value
