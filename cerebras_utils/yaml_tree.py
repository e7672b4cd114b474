"""A YAML text with the place of everything in it: where a key, a value, an alias stands, and who shares it.

PyYAML's own tree forgets aliases: an alias is the very node of its anchor. Here each is remembered,
because an edit of a shared node would reach places that nobody asked to change.
"""

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[Hashable, ...]  # keys of maps, indices of lists
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BLANK = re.compile("(?:[ \t\n\r\x85\u2028\u2029\ufeff]|#[^\n\r\x85\u2028\u2029]*)*")
_PROPERTY = re.compile(r"&[-\w]+|![^\s,\[\]{}]*")


@dataclass(frozen=True)
class Alias:
    start: int
    end: int
    name: str


@dataclass(frozen=True)
class Entry:
    """What stands in a map under a key, or in a list at an index."""

    name: Hashable
    key: yaml.Node | None  # None in a list
    value: yaml.Node
    alias: Alias | None  # where ``value`` is written elsewhere
    is_merge: bool = False


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases: dict[tuple[int, int], Alias] = {}  # (id of the parent, index in it)
        self.anchored: dict[int, str] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and isinstance(parent, yaml.CollectionNode):
            # The key of a map is composed first, without an index.
            place = (id(parent), -1 if index is None else len(parent.value))
            assert event.start_mark is not None
            assert event.end_mark is not None
            self.aliases[place] = Alias(event.start_mark.index, event.end_mark.index, str(event.anchor))
        anchor = None if isinstance(event, yaml.AliasEvent) else getattr(event, "anchor", None)
        node = super().compose_node(parent, index)
        if anchor is not None and node is not None:
            self.anchored[id(node)] = anchor
        return node


class Tree:
    def __init__(self, text: str) -> None:
        """Of one document that ``strict_yaml`` has accepted."""
        self.text = text
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            assert root is not None, "an empty document has no places"
            self.root: yaml.Node = root
            self._aliases, self._anchored = loader.aliases, loader.anchored
            self._entries: dict[int, list[Entry]] = {}
            self._shared: dict[int, list[Alias]] = {}
            self._list(loader, root)
        finally:
            loader.dispose()

    def entries(self, node: yaml.Node) -> list[Entry]:
        return self._entries[id(node)]

    def uses(self, node: yaml.Node) -> list[Alias]:
        """The aliases that stand for this very node."""
        return self._shared.get(id(node), [])

    def anchor(self, node: yaml.Node) -> str | None:
        return self._anchored.get(id(node))

    def within(self, node: yaml.Node) -> Iterator[yaml.Node]:
        """The node and all that is written below it; not what an alias stands for."""
        yield node
        for entry in self.entries(node):
            if entry.alias is None:
                yield from self.within(entry.value)

    def occurrences(self, node: yaml.Node) -> Iterator[tuple[Path, bool]]:
        """Every path at which a node is the value; True where its keys are merged into the map there."""
        yield from self._find(node, self.root, ())

    # Places in the text

    def start(self, node: yaml.Node) -> int:
        """Of the value itself, behind its anchor and tag."""
        at = int(node.start_mark.index)
        while (found := _PROPERTY.match(self.text, at)) and found.end() > at:
            at = self.skip_blank(found.end())
        return at

    def end(self, node: yaml.Node, alias: Alias | None = None) -> int:
        """Behind the last character of the value; a block's own end mark is at the next token."""
        if alias is not None:
            return alias.end
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            last = self.entries(node)[-1]
            return self.end(last.value, last.alias)
        end = int(node.end_mark.index)
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            start = int(node.start_mark.index)
            return start + len(self.text[start:end].rstrip())
        return end

    def line_after(self, node: yaml.Node, alias: Alias | None = None) -> int:
        """Where the line behind a block's value begins: the end of the text if there is none."""
        if alias is None and isinstance(node, yaml.CollectionNode) and not node.flow_style:
            last = self.entries(node)[-1]
            return self.line_after(last.value, last.alias)
        if alias is None and isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            return int(node.end_mark.index)  # the blank lines behind it may be part of the value
        return self.next_line(self.end(node, alias))

    def next_line(self, at: int) -> int:
        found = LINE_BREAK.search(self.text, at)
        return found.end() if found else len(self.text)

    def line_end(self, at: int) -> int:
        found = LINE_BREAK.search(self.text, at)
        return found.start() if found else len(self.text)

    def line_start(self, at: int) -> int:
        """Where the line that holds this place begins."""
        start = 0
        for found in LINE_BREAK.finditer(self.text, 0, at):
            start = found.end()
        return start

    def skip_blank(self, at: int) -> int:
        """Over white space, line breaks and comments."""
        found = _BLANK.match(self.text, at)
        assert found is not None
        return found.end()

    def _list(self, loader: _Loader, root: yaml.Node) -> None:
        by_name = {id(root): root}
        waiting = [root]
        while waiting:
            node = waiting.pop()
            entries: list[Entry] = []
            if isinstance(node, yaml.MappingNode):
                for index, (key, value) in enumerate(node.value):
                    merge = key.tag == "tag:yaml.org,2002:merge"
                    name = "<<" if merge else loader.construct_object(key, deep=True)
                    entries.append(Entry(name, key, value, self._aliases.get((id(node), index)), merge))
            elif isinstance(node, yaml.SequenceNode):
                for index, value in enumerate(node.value):
                    entries.append(Entry(index, None, value, self._aliases.get((id(node), index))))
            self._entries[id(node)] = entries
            for entry in entries:
                if entry.alias is not None:
                    self._shared.setdefault(id(entry.value), []).append(entry.alias)
                if id(entry.value) not in by_name:
                    by_name[id(entry.value)] = entry.value
                    waiting.append(entry.value)

    def _find(self, wanted: yaml.Node, node: yaml.Node, path: Path) -> Iterator[tuple[Path, bool]]:
        for entry in self.entries(node):
            if entry.is_merge:
                several = isinstance(entry.value, yaml.SequenceNode)
                merged = self.entries(entry.value) if several else [entry]
                if any(one.value is wanted for one in merged):
                    yield path, True
                continue
            if entry.value is wanted:
                yield (*path, entry.name), False
            yield from self._find(wanted, entry.value, (*path, entry.name))
