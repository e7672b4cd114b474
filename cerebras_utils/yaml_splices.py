"""Changes to a YAML text as splices: spans that give way to other text, collected and made at once."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import yaml

from cerebras_utils.yaml_tree import LINE_BREAK, Entry, Tree
from cerebras_utils.yaml_values import as_item, in_flow, in_flow_pair
from pruning.problems import fail


@dataclass(frozen=True)
class _Splice:
    start: int
    end: int
    text: str


class Splices:
    """Where a new key, item or value goes, in the style of what is around it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        found = LINE_BREAK.search(tree.text)
        self.line_break = found.group() if found else "\n"
        self._splices: list[_Splice] = []

    def made(self, path: str) -> str:
        text, at, pieces = self._tree.text, 0, []
        for splice in sorted(self._splices, key=lambda s: (s.start, s.end)):  # stable: in the order they came
            if splice.start < at:
                what = "two changes meet in one place of the text"
                raise fail(path, what, "make them one after the other")
            pieces += [text[at : splice.start], splice.text]
            at = splice.end
        return "".join([*pieces, text[at:]])

    def splice(self, start: int, end: int, text: str) -> None:
        self._splices.append(_Splice(start, end, text))

    def insert_lines(self, at: int, lines: list[str]) -> None:
        """Whole lines, before the line that begins at ``at``."""
        text = self._tree.text
        if at == len(text) and LINE_BREAK.fullmatch(text[-1:]) is None:
            self.splice(at, at, "".join(self.line_break + line for line in lines))
        else:
            self.splice(at, at, "".join(line + self.line_break for line in lines))

    def fill(self, node: yaml.Node, text: str) -> None:
        """An empty ``[]`` or ``{}``."""
        at = self._tree.start(node) + 1
        self.splice(at, at, text)

    def add_keys(self, node: yaml.MappingNode, added: dict[Hashable, Any], *, flow: bool) -> None:
        last = self._tree.entries(node)[-1]
        if flow:
            end = self._tree.end(last.value, last.alias)
            self.splice(end, end, "".join(f", {in_flow_pair(k, v)}" for k, v in added.items()))
            return
        first = self._tree.entries(node)[0]
        assert first.key is not None
        indent = " " * first.key.start_mark.column
        lines = [line for name, value in added.items() for line in self._block(name, value, indent)]
        self.insert_lines(self._tree.line_after(node), lines)

    def add_items(self, node: yaml.SequenceNode, items: list[Any], *, flow: bool) -> None:
        last = self._tree.entries(node)[-1]
        if flow:
            end = self._tree.end(last.value, last.alias)
            self.splice(end, end, "".join(f", {in_flow(item)}" for item in items))
            return
        dash = self._tree.start(node)
        indent = self._tree.text[self._tree.line_start(dash) : dash]
        lines = [f"{' ' * len(indent)}- {as_item(item)}" for item in items]
        self.insert_lines(self._tree.line_after(node), lines)

    def _block(self, name: Hashable, value: Any, indent: str) -> list[str]:
        """A key and its value as lines of a block: a list of maps gets a line for each."""
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            key = in_flow_pair(name, None).removesuffix(" null")
            return [f"{indent}{key}", *(f"{indent}{self._dash()}- {as_item(item)}" for item in value)]
        return [f"{indent}{in_flow_pair(name, value)}"]

    def _dash(self) -> str:
        """How far this file indents the items of a list below its key."""
        waiting = [self._tree.root]
        while waiting:
            node = waiting.pop(0)
            for entry in self._tree.entries(node):
                if entry.alias is not None:
                    continue
                waiting.append(entry.value)
                is_block = isinstance(entry.value, yaml.SequenceNode) and not entry.value.flow_style
                if is_block and entry.key is not None:
                    start = self._tree.start(entry.value)
                    column = start - self._tree.line_start(start)
                    return " " * max(0, column - entry.key.start_mark.column)
        return ""

    def replace(
        self, node: yaml.Node, new: Any, entry: Entry | None, parent: yaml.Node | None, *, flow: bool
    ) -> None:
        """A value as a whole. Of a block only the comment beside its key stays."""
        tree, text = self._tree, self._tree.text
        anchor = f"&{tree.anchor(node)} " if tree.uses(node) else ""
        start, end = int(node.start_mark.index), tree.end(node)
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        key = entry.key if entry is not None and not flow and isinstance(parent, yaml.MappingNode) else None
        if start == end:  # nothing is written: null
            lines = self._block("", new, "") if key is not None else []
            if key is not None and len(lines) > 1:
                indent = " " * key.start_mark.column
                self.insert_lines(tree.next_line(end), [indent + line for line in lines[1:]])
            else:
                gap = " " if text[:end].endswith((":", "-")) or text[end - 1 : end].isspace() else ": "
                self.splice(end, end, f"{gap}{anchor}{in_flow(new)}")
        elif block and key is not None:
            colon = tree.skip_blank(int(key.end_mark.index))
            assert text[colon : colon + 1] == ":", "nothing but blanks and comments is before it"
            self.splice(colon + 1, colon + 1, f" {anchor}{in_flow(new)}")
            beside = tree.line_end(colon)  # white space, and a comment or an anchor
            self.splice(beside if start > beside else colon + 1, tree.line_end(end), "")
        else:
            self.splice(start, end, anchor + in_flow(new))

    def remove(self, node: yaml.CollectionNode, gone: list[Entry], *, flow: bool) -> None:
        """Some of the entries, never all."""
        tree, entries = self._tree, self._tree.entries(node)
        first = self._begin(node, 0, flow=flow)
        inline = flow or bool(tree.text[tree.line_start(first) : first].strip())
        kept_before = False
        for index, entry in enumerate(entries):
            if entry not in gone:
                kept_before = True
                continue
            start, end = self._begin(node, index, flow=flow), tree.end(entry.value, entry.alias)
            if flow and kept_before:
                previous = entries[index - 1]
                self.splice(tree.end(previous.value, previous.alias), end, "")
            elif inline and not kept_before:  # `{first: ` or, in a list, `- first: `
                self.splice(start, self._begin(node, index + 1, flow=flow), "")
            else:
                self.splice(tree.line_start(start), tree.line_after(entry.value, entry.alias), "")

    def _begin(self, node: yaml.CollectionNode, index: int, *, flow: bool) -> int:
        """Of an entry: its key, its value, or in a block list its dash."""
        entries = self._tree.entries(node)
        entry = entries[index]
        if entry.key is not None:
            return int(entry.key.start_mark.index)
        if flow:
            return entry.alias.start if entry.alias is not None else int(entry.value.start_mark.index)
        if index == 0:
            return self._tree.start(node)
        before = entries[index - 1]
        return self._tree.skip_blank(self._tree.end(before.value, before.alias))
