"""YAML with its lines, and without what PyYAML passes over or lets through."""

from datetime import date

import pytest
import yaml

from pruning.problems import Problem, ProblemError
from pruning.strict_yaml import parse_yaml, read_yaml

SAMPLE = """\
a: 1
b:
  c:
  - 1e-5
  - {x: on, "y": "1e-5"}
base: &base
  p: 0x10
  q: 1:30
more:
  <<: *base
  q: 2024-01-02
"""


def test_values_are_those_of_pyyaml():
    document = parse_yaml(SAMPLE, "f.yaml")
    assert document.value == yaml.safe_load(SAMPLE)
    assert document.value["more"] == {"p": 16, "q": date(2024, 1, 2)}
    assert document.value["b"]["c"] == ["1e-5", {"x": True, "y": "1e-5"}]


def test_lines():
    document = parse_yaml(SAMPLE, "f.yaml")
    assert document.at("b.c[0]") == "f.yaml:4: b.c[0]"
    assert document.at("b.c[1].y") == "f.yaml:5: b.c[1].y"
    assert document.at("base.p") == "f.yaml:7: base.p"
    assert document.at("more.p") == "f.yaml:9: more.p"  # that of the nearest key that is written
    assert document.at("b.d.e[3]") == "f.yaml:2: b.d.e[3]"
    assert document.at("z") == "f.yaml: z"
    assert document.at("") == "f.yaml"


def test_a_problem_gets_its_line():
    document = parse_yaml(SAMPLE, "f.yaml")
    assert document.locate(Problem("f.yaml: b.c[1].x", "w", "f")) == Problem("f.yaml:5: b.c[1].x", "w", "f")
    for where in ("f.yaml:5: b.c", "g.yaml: a", "f.yaml"):
        assert document.locate(Problem(where, "w", "f")) == Problem(where, "w", "f")


def test_plain_texts_are_told_from_quoted_ones():
    texts = parse_yaml("a: [x, 'y', 1, 1e-5]\nb: &b z\nc: *b\nd: |\n  w\n", "f.yaml").plain_texts
    assert [(text.value, text.line) for text in texts] == [("x", 1), ("1e-5", 1), ("z", 2)]


def test_all_keys_that_are_written_twice():
    with pytest.raises(ProblemError) as caught:
        parse_yaml("a: 1\nb: {c: 1, d: 2,\n    c: 3}\na: 2\n", "f.yaml")
    assert [problem.where for problem in caught.value.problems] == ["f.yaml:3: b.c", "f.yaml:4: a"]
    assert "first in line 2" in caught.value.problems[0].what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [\n", "f.yaml:2\n"),
        ("a: 'x\n", "end of stream"),
        ("\ta: 1", "cannot start any token"),
        ("a: \x01", "not allowed"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        ("? [1]\n: 2\n", "no word or number"),
        ("a: 2024-13-45", "no timestamp"),
        ("a: !!int x", "no int"),
        ("a: !!timestamp x", "no timestamp"),
        ("a: !!bool x", "no bool"),
        ("[" * 500, "too deeply"),
    ],
)
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(ProblemError) as caught:
        parse_yaml(text, "f.yaml")
    assert "f.yaml" in str(caught.value)
    assert says in str(caught.value)


def test_a_few_lines_do_not_become_billions():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ProblemError, match="stands for more than"):
        parse_yaml("\n".join(lines), "f.yaml")


def test_files(tmp_path):
    file = tmp_path / "f.yaml"
    with pytest.raises(ProblemError, match="cannot be read"):
        read_yaml(file)
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(ProblemError, match="not UTF-8: byte 3"):
        read_yaml(file)
    file.write_text("")
    assert read_yaml(file).value is None
    file.write_text("a: é\n", encoding="utf-8")
    assert read_yaml(file).value == {"a": "é"}
