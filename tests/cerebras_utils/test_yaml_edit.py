"""Whatever the style of a file: what was asked for changes, and nothing else does, in value or in text."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerebras_utils.yaml_edit import edit_yaml
from cerebras_utils.yaml_values import same
from pruning.problems import ProblemError

# Generated files

NAMES = st.sampled_from(["a", "b", "long_key", "csx.flag", "x-y", "on_", "Zoo"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "text", "two words", "# no comment", "a: b", "yes", "1.0", "~", "é", "-", "[", "x\ny", "*a"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
COMMENTS = st.sampled_from(["", "", "", "  # beside", " #tab\there, {not: yaml} &a *b"])
OWN_LINES = st.sampled_from([[], [], [], ["# own: line"], ["", "   # deeper [", ""]])


class Writer:
    """Values as YAML in styles that hypothesis draws, with anchors where a value comes again."""

    def __init__(self, data):
        self.draw = data.draw
        self.count = 0
        self.anchors = []  # (name, value), whole when they are listed
        self.indentless = self.draw(st.booleans())

    def scalar(self, value):
        if value is None:
            return self.draw(st.sampled_from(["null", "~"]))
        if isinstance(value, str):
            style = self.draw(st.sampled_from([None, "'", '"']))
            return yaml.safe_dump(
                [value], default_flow_style=True, default_style=style, allow_unicode=True, width=10**9
            ).strip()[1:-1]
        if type(value) is float and "e" not in repr(value):
            return repr(value) + self.draw(st.sampled_from(["", "00"]))
        return yaml.safe_dump([value], default_flow_style=True).strip()[1:-1]

    def flow(self, value):
        if isinstance(value, dict):
            inner = ", ".join(f"{self.scalar(k)}: {self.flow(v)}" for k, v in value.items())
            return self.draw(st.sampled_from(["{%s}", "{ %s }"])) % inner
        if isinstance(value, list):
            return self.draw(st.sampled_from(["[%s]", "[ %s ]"])) % ", ".join(map(self.flow, value))
        return self.scalar(value)

    def value(self, value, indent, column):
        """Rest of the line behind a key or a dash, and the lines below it."""
        again = [name for name, before in self.anchors if same(before, value)]
        if again and self.draw(st.booleans()):
            return f" *{self.draw(st.sampled_from(again))}" + self.draw(COMMENTS), []
        name = None
        if self.draw(st.integers(0, 5)) == 0:
            self.count += 1
            name = f"n{self.count}"
        anchor = f" &{name}" if name else ""
        if value and isinstance(value, dict | list) and self.draw(st.integers(0, 3)):
            offset = (
                0
                if self.indentless and isinstance(value, list) and column is not None
                else self.draw(st.sampled_from([2, 4]))
            )
            below = indent + offset
            head, lines = anchor + self.draw(COMMENTS), self.block(value, below)
        elif value is None and not name and self.draw(st.booleans()):
            head, lines = self.draw(COMMENTS), []
        else:
            head, lines = f"{anchor} {self.flow(value)}" + self.draw(COMMENTS), []
        if name:
            self.anchors.append((name, value))
        return head, lines

    def block(self, value, indent):
        lines = []
        for item in value.items() if isinstance(value, dict) else value:
            lines += self.draw(OWN_LINES)
            if isinstance(value, dict):
                head, below = self.value(item[1], indent, indent)
                lines += [f"{' ' * indent}{self.scalar(item[0])}:{head}", *below]
            elif item and isinstance(item, dict) and self.draw(st.booleans()):  # - a: 1
                inner = [
                    line
                    for line in self.block(item, indent + 2)
                    if line.strip() and not line.lstrip().startswith("#")
                ]
                lines += [f"{' ' * indent}- {inner[0].lstrip()}", *inner[1:]]
            else:
                head, below = self.value(item, indent, None)
                lines += [f"{' ' * indent}-{head}", *below]
        return lines


@st.composite
def files(draw):
    data = draw(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
    if draw(st.booleans()):  # something that comes twice
        data["again"] = copy.deepcopy(draw(st.sampled_from(list(data.values()))))
    lines = Writer(type("Data", (), {"draw": staticmethod(draw)})).block(data, 0)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from([end, ""])), data


def paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[name], (*path, name))


def at(value, path):
    for step in path:
        value = value[step]
    return value


def change(data, value):
    """One place of ``value``, changed. Returns the kind of change, or None."""
    place = data.draw(st.sampled_from(list(paths(value))))
    target, new = at(value, place), data.draw(VALUES)
    kind = data.draw(st.sampled_from(["set", "add", "remove"]))
    if kind == "add" and isinstance(target, dict):
        target["new_key"] = new
    elif kind == "add" and isinstance(target, list):
        target.append(new)
    elif place:
        parent = at(value, place[:-1])
        if kind != "remove":
            parent[place[-1]] = new
            return "set"
        del parent[place[-1]]
    else:
        return None
    return kind


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files(), st.integers(1, 3), st.data())
def test_any_edit_of_any_file(file, count, data):
    text, value = file
    assert same(yaml.safe_load(text), value)
    intended = copy.deepcopy(value)
    kinds = {change(data, intended) for _ in range(count)}
    try:
        out, said = edit_yaml(text, intended, "c.yaml"), ""
    except ProblemError as error:
        out, said = text, str(error)
    if said:  # of an anchor that others use there is no edit of one place alone; nothing else is refused
        assert "*n" in text, said
        assert "is anchored as" in said
        return
    assert same(yaml.safe_load(out), intended)
    if kinds == {"add"} and count == 1:
        before, after = text.splitlines(keepends=True), out.splitlines(keepends=True)
        assert len([line for line in before if line not in after]) <= 1  # a flow collection, or the open end


# Styles that people use, to the letter

CASES = {
    "a block list grows": (
        "a:\n- b: {}  # c\n# d\ne: 1\n",
        lambda v: v["a"].append({"M": {"x": "/p"}}),
        "a:\n- b: {}  # c\n- M: {x: /p}\n# d\ne: 1\n",
    ),
    "an indented list too": (
        "a:\n  - b: {}\n",
        lambda v: v["a"].append({"c": {}}),
        "a:\n  - b: {}\n  - c: {}\n",
    ),
    "a deep last item": (
        "a:\n- b:\n    c:\n    - 1\nd: 2\n",
        lambda v: v["a"].append("x"),
        "a:\n- b:\n    c:\n    - 1\n- x\nd: 2\n",
    ),
    "[]": ("a: []  # none\n", lambda v: v["a"].append({"M": {}}), "a: [{M: {}}]  # none\n"),
    "a flow list": ("a: [{b: {}}, ]\n", lambda v: v["a"].append({"M": {}}), "a: [{b: {}}, {M: {}}, ]\n"),
    "nothing": ("a:  # none\nb: 1\n", lambda v: v.update(a=[{"M": {}}]), "a:  # none\n- M: {}\nb: 1\n"),
    "null": ("a: null  # none\n", lambda v: v.update(a=[{"M": {}}]), "a: [{M: {}}]  # none\n"),
    "a new key": (
        "t:\n  a: 1\n  l:\n    - x\n\n  # end\nu: 2",
        lambda v: v["t"].update(c=[{"M": {}}]),
        "t:\n  a: 1\n  l:\n    - x\n  c:\n    - M: {}\n\n  # end\nu: 2",
    ),
    "no newline at the end": (
        "t:\n  a: 1",
        lambda v: v["t"].update(c=[{"M": {}}]),
        "t:\n  a: 1\n  c:\n  - M: {}",
    ),
    "CRLF": ("t:\r\n  a: 1\r\n", lambda v: v["t"].update(b=2), "t:\r\n  a: 1\r\n  b: 2\r\n"),
    "a flow map": (
        "t: {a: 1,\n  b: 2}  # x\n",
        lambda v: v["t"].update(c=3),
        "t: {a: 1,\n  b: 2, c: 3}  # x\n",
    ),
    "{}": ("t: &x {}\n", lambda v: v["t"].update(c=3), "t: &x {c: 3}\n"),
    "a scalar": (
        "a: true   # \t so\nb: 9.526686369390594e-05\n",
        lambda v: v.update(a=False),
        "a: false   # \t so\nb: 9.526686369390594e-05\n",
    ),
    "a quoted one": ("a: 'x # y'  # z\n", lambda v: v.update(a="w"), "a: w  # z\n"),
    "a block becomes a line": (
        "a:  # of\n  - 1\n  - 2  # two\nb: 3\n",
        lambda v: v.update(a="/p"),
        "a: /p  # of\nb: 3\n",
    ),
    "a block text": ("a: |\n  x\n  y\n\nb: 3\n", lambda v: v.update(a=1), "a: 1\n\nb: 3\n"),
    "behind a block text": (
        "t:\n  a: |+\n    x\n\nb: 3\n",
        lambda v: v["t"].update(c=1),
        "t:\n  a: |+\n    x\n\n  c: 1\nb: 3\n",
    ),
    "one map of a list": ("- a: 1\n  b: 2\n", lambda v: v[0].pop("a"), "- b: 2\n"),
    "a section goes": (
        "t:\n  a: 1\n  s:  # x\n    b: 2\n  # of c\n  c: 3\n",
        lambda v: v["t"].pop("s"),
        "t:\n  a: 1\n  # of c\n  c: 3\n",
    ),
    "an item goes": ("a:\n- x\n# of y\n- y\n- z\n", lambda v: v["a"].pop(1), "a:\n- x\n# of y\n- z\n"),
    "all items go": ("a:\n- x\nb: 1\n", lambda v: v["a"].pop(), "a: []\nb: 1\n"),
    "flow items go": ("a: [x, y, z, w]\n", lambda v: v.update(a=["y"]), "a: [y]\n"),
    "a long key": ("? a\n: - 1\nb: 2\n", lambda v: v.update(a=1), "? a\n: 1\nb: 2\n"),
    "a key with a point": (
        "f:\n  csx.a: 1\n",
        lambda v: v["f"].update({"csx.b": 2}),
        "f:\n  csx.a: 1\n  csx.b: 2\n",
    ),
    "text that others take for a number": ("a: 1\n", lambda v: v.update(a="1e-5"), 'a: "1e-5"\n'),
    "a byte order mark": ("\ufeffa: 1\n", lambda v: v.update(b=2), "\ufeffa: 1\nb: 2\n"),
}


def outcome(text, change):
    value = yaml.safe_load(text)
    plain = copy.deepcopy(value) if "*" not in text else yaml.safe_load(yaml.dump(value, Dumper=NoAliases))
    change(plain)
    return plain


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("name", CASES)
def test_an_edit_reads_as_a_person_would_have_written_it(name):
    text, edit, expected = CASES[name]
    assert edit_yaml(text, outcome(text, edit), "c.yaml") == expected


SHARED = {
    "the user of an alias": (
        "a: &x {b: 1}\nc: *x  # d\n",
        lambda v: v["c"].update(b=2),
        "a: &x {b: 1}\nc: {<<: *x, b: 2}  # d\n",
    ),
    "deep below an alias": (
        "a: &x {b: {e: 1}}\nc: *x\n",
        lambda v: v["c"]["b"].update(e=2),
        "a: &x {b: {e: 1}}\nc: {<<: *x, b: {e: 2}}\n",
    ),
    "an alias loses a key": (
        "a: &x {b: 1, e: 2}\nc: *x\n",
        lambda v: v["c"].pop("b"),
        "a: &x {b: 1, e: 2}\nc: {e: 2}\n",
    ),
    "a list by alias": ("a: &x [1]\nc: *x\n", lambda v: v["c"].append(2), "a: &x [1]\nc: [1, 2]\n"),
    "over a merge": (
        "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n",
        lambda v: v["c"].update(b=2),
        "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n  b: 2\n",
    ),
    "all users alike": (
        "a: &x\n  b: 1\nc: *x\n",
        lambda v: [v[k].update(b=2) for k in "ac"],
        "a: &x\n  b: 2\nc: *x\n",
    ),
    "beside an anchor": (
        "t:\n  a: &x {b: 1}\nc: *x\n",
        lambda v: v["t"].update(d=1),
        "t:\n  a: &x {b: 1}\n  d: 1\nc: *x\n",
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_an_edit_does_not_leak_to_other_users_of_an_anchor(name):
    text, edit, expected = SHARED[name]
    assert edit_yaml(text, outcome(text, edit), "c.yaml") == expected


REFUSED = {
    "the anchor's own place": (
        "a: &x {b: 1}\nc: *x\n",
        lambda v: v["a"].update(b=2),
        "&x, and c would change",
    ),
    "a merged one": ("a: &x {b: 1}\nc: {<<: *x}\n", lambda v: v["a"].update(b=2), "&x, and c would change"),
    "a key of a merge": (
        "a: &x {b: 1, d: 2}\nc: {<<: *x, e: 1}\n",
        lambda v: v["c"].pop("b"),
        "comes from another map",
    ),
    "an anchor that is needed": ("a: {d: &x 1}\nc: *x\n", lambda v: v.update(a=2), "which c needs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_changed_alone_is_refused(name):
    text, edit, said = REFUSED[name]
    with pytest.raises(ProblemError, match=said):
        edit_yaml(text, outcome(text, edit), "c.yaml")


def test_numbers_of_other_types_differ():
    assert not any(
        same(*pair) for pair in [(1, 1.0), (1, True), ("1", 1), ([1], [1, 2]), ({"a": 1}, {"b": 1})]
    )
    assert same(float("nan"), float("nan"))
    assert edit_yaml("a: 1\n", {"a": 1.0}, "c.yaml") == "a: 1.0\n"


def test_the_same_values_leave_the_text_alone():
    text = "# c\r\na:   {b: [1,2 ,  3]}"
    assert edit_yaml(text, {"a": {"b": [1, 2, 3]}}, "c.yaml") is text
