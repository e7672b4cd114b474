"""Edit a YAML file as a person would: text in, text out, and every line that was not meant stays as it is.

What is asked for is not an edit but the outcome: the values that the file should hold. The places
where it differs are found in the text and spliced; comments, anchors, quotes, order and the digits
of numbers elsewhere are never written anew. The result is parsed and compared, types and all: it is
the outcome that was asked for, or nothing is returned.
"""

from typing import Any

import yaml

from cerebras_utils.yaml_splices import Splices
from cerebras_utils.yaml_tree import Alias, Entry, Path, Tree
from cerebras_utils.yaml_values import differences, dotted, in_flow, in_flow_pair, same
from pruning.problems import Problem, ProblemError, fail
from pruning.strict_yaml import Document, parse_yaml

_BY_HAND = "make this change by hand, and leave it out here"


def edit_yaml(text: str, intended: Any, path: str) -> str:
    """``text`` changed so that it holds ``intended``; ``path`` is for messages."""
    return edited(text, intended, parse_yaml(text, path))[0]


def edited(text: str, intended: Any, base: Document) -> tuple[str, Document]:
    """``edit_yaml`` of a text that is parsed already, comments aside; and what the result parses to."""
    new = text if same(base.value, intended) else _Edit(text, base, intended).text()
    try:
        result = parse_yaml(new, base.path)
    except ProblemError as error:
        what = f"cannot be changed where it has to be: {error.problems[0].what}"
        raise fail(base.path, what, _BY_HAND) from error
    if not same(result.value, intended):
        places = [dotted(place) for place in differences(result.value, intended)]
        what = f"is written in a way in which it cannot be changed alone: {', '.join(places[:4])}"
        raise fail(base.path, what, _BY_HAND)
    return new, result


class _Edit:
    """One pass over the tree and the outcome, side by side, that collects splices."""

    def __init__(self, text: str, document: Document, intended: Any) -> None:
        self._tree, self._document, self._intended = Tree(text), document, intended
        self._splices = Splices(self._tree)
        self._problems: list[Problem] = []
        self._edited_for_all: set[int] = set()
        self._visit(self._tree.root, document.value, intended, (), None, flow=False, parent=None)

    def text(self) -> str:
        if self._problems:
            raise ProblemError(self._problems)
        return self._splices.made(self._document.path)

    def _visit(
        self,
        node: yaml.Node,
        old: Any,
        new: Any,
        path: Path,
        entry: Entry | None,
        *,
        flow: bool,
        parent: yaml.Node | None,
    ) -> None:
        if same(old, new):
            return
        if entry is not None and entry.alias is not None:
            if id(node) not in self._edited_for_all:
                self._detach(entry.alias, old, new)
            return
        if self._tree.uses(node) and not self._shared_alike(node, new, path):
            return
        flow = flow or (isinstance(node, yaml.CollectionNode) and bool(node.flow_style))
        if isinstance(old, dict) and isinstance(new, dict) and isinstance(node, yaml.MappingNode):
            if old.keys() & new.keys():
                return self._visit_map(node, old, new, path, flow=flow)
            if not old:
                return self._splices.fill(node, ", ".join(in_flow_pair(k, v) for k, v in new.items()))
        if isinstance(old, list) and isinstance(new, list) and isinstance(node, yaml.SequenceNode) and new:
            if not old:
                return self._splices.fill(node, ", ".join(map(in_flow, new)))
            if self._visit_list(node, old, new, path, flow=flow):
                return
        self._replace(node, new, path, entry, parent, flow=flow)

    def _visit_map(self, node: yaml.MappingNode, old: Any, new: Any, path: Path, *, flow: bool) -> None:
        entries = [entry for entry in self._tree.entries(node) if not entry.is_merge]
        own = {entry.name: entry for entry in entries}
        for name, entry in own.items():
            if name in new:
                self._visit(entry.value, old[name], new[name], (*path, name), entry, flow=flow, parent=node)
        gone = [entry for entry in entries if entry.name not in new]
        if gone and len(gone) == len(self._tree.entries(node)):
            return self._replace(node, new, path, None, None, flow=flow)
        for name in old.keys() - new.keys() - own.keys():
            what = "comes from another map by `<<`, and cannot be taken out here alone"
            self._refuse((*path, name), what)
        self._remove(node, gone, path, flow=flow)
        added = {name: value for name, value in new.items() if name not in own}
        added = {name: v for name, v in added.items() if name not in old or not same(old[name], v)}
        if added:
            self._splices.add_keys(node, added, flow=flow)

    def _visit_list(self, node: yaml.SequenceNode, old: Any, new: Any, path: Path, *, flow: bool) -> bool:
        """False: it has to be written anew."""
        entries = self._tree.entries(node)
        if len(new) >= len(old):
            if sum(not same(a, b) for a, b in zip(old, new, strict=False)) > max(1, len(old) // 2):
                return False
            for entry, before, after in zip(entries, old, new, strict=False):
                index = entry.name
                self._visit(entry.value, before, after, (*path, index), entry, flow=flow, parent=node)
            if new[len(old) :]:
                self._splices.add_items(node, new[len(old) :], flow=flow)
            return True
        left, gone = list(new), []
        for entry, value in zip(entries, old, strict=True):
            if left and same(value, left[0]):
                left.pop(0)
            else:
                gone.append(entry)
        if not left:
            self._remove(node, gone, path, flow=flow)
        return not left

    def _replace(
        self,
        node: yaml.Node,
        new: Any,
        path: Path,
        entry: Entry | None,
        parent: yaml.Node | None,
        *,
        flow: bool,
    ) -> None:
        inner = [one for one in self._tree.within(node) if one is not node]
        if self._keeps_anchors(inner, path):
            self._splices.replace(node, new, entry, parent, flow=flow)

    def _remove(self, node: yaml.CollectionNode, gone: list[Entry], path: Path, *, flow: bool) -> None:
        own = [entry.value for entry in gone if entry.alias is None]
        if self._keeps_anchors([inner for value in own for inner in self._tree.within(value)], path):
            self._splices.remove(node, gone, flow=flow)

    def _keeps_anchors(self, lost: list[yaml.Node], path: Path) -> bool:
        """Whether no alias would be left without its anchor; a problem if not."""
        spans = [(int(node.start_mark.index), self._tree.end(node)) for node in lost]
        for node in lost:
            outside = [
                alias
                for alias in self._tree.uses(node)
                if not any(start <= alias.start < end for start, end in spans)
            ]
            if outside:
                name = self._tree.anchor(node)
                others = [dotted(place) for place, _ in self._tree.occurrences(node)]
                what = f"is anchored as &{name}, which {', '.join(others[1:])} needs"
                fix = f"write out in the file what *{name} stands for"
                self._problems.append(Problem(self._document.at(dotted(path)), what, fix))
                return False
        return True

    # Sharing

    def _detach(self, alias: Alias, old: Any, new: Any) -> None:
        """In place of ``*name``: the changed keys merged over it, or the value written out."""
        text = in_flow(new)
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() <= new.keys():
            changed = {name: v for name, v in new.items() if name not in old or not same(old[name], v)}
            pairs = ", ".join(in_flow_pair(name, value) for name, value in changed.items())
            text = f"{{<<: *{alias.name}, {pairs}}}"
        self._splices.splice(alias.start, alias.end, text)

    def _shared_alike(self, node: yaml.Node, new: Any, path: Path) -> bool:
        """Whether every user of an anchor is to get the same value; a problem if not."""
        others = []
        for place, merged in self._tree.occurrences(node):
            if merged or not same(_at(self._intended, place), new):
                others.append(dotted(place))
        if not others:
            self._edited_for_all.add(id(node))
            return True
        name = self._tree.anchor(node)
        what = f"is anchored as &{name}, and {', '.join(others)} would change with it"
        fix = f"change all of them alike, or write out in the file what *{name} stands for"
        self._problems.append(Problem(self._document.at(dotted(path)), what, fix))
        return False

    def _refuse(self, path: Path, what: str) -> None:
        self._problems.append(Problem(self._document.at(dotted(path)), what, _BY_HAND))


def _at(value: Any, path: Path) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
