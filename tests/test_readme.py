"""Every command of the README works as it stands there, in the order in which it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from experiments.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "masks.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "console" for line in block.strip().splitlines()]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory as after ``make masks``: the demonstration checkpoint and the recipes."""
    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    demo = [sys.executable, "-m", "experiments.demo_checkpoint", "checkpoints/demo.safetensors"]
    subprocess.run(demo, cwd=place, env=ENVIRONMENT, check=True, capture_output=True)
    return place


def typed(command, place, monkeypatch):
    """As typed into a shell there: its quotes and patterns, and what ``wafersparse`` makes of the words.

    In this process: a new one for each would import torch again.
    """
    monkeypatch.chdir(place)
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True).stdout
    program, *arguments = words.split("\0")[:-1]
    assert program == "wafersparse"
    return CliRunner().invoke(main, arguments)


def test_the_commands_in_their_order(place, monkeypatch):
    verbs = [command for command in COMMANDS if command.startswith("wafersparse")]
    assert len(verbs) > 8
    for command in verbs:
        result = typed(command, place, monkeypatch)
        assert result.exit_code == 0, (command, result.output, result.exception)
        assert result.stdout


def test_no_other_command_stands_there():
    """The two make commands are run by CI and by whoever tries the README; here only what they call is."""
    assert {c for c in COMMANDS if not c.startswith("wafersparse")} == {"make masks", "make test"}


def test_make_masks_runs_the_main_job():
    result = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "masks"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert last.endswith(
        "wafersparse masks 'checkpoints/demo.safetensors' --sparsity 0.5 --sparsity 0.75 --out 'masks'"
    )


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README.md", "docs/masks.md"])
def test_the_python_examples(text, tmp_path):
    blocks = [block for kind, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) if kind == "python"]
    assert blocks
    for block in blocks:
        subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True
        )


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configs" / "masks").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_recipe_starts_with_the_command_that_runs_it(recipe, place, monkeypatch):
    first = recipe.read_text().splitlines()[0]
    assert first.startswith("# wafersparse masks ")
    assert f"configs/masks/{recipe.name}" in first
    assert yaml.safe_load(recipe.read_text())
    assert typed(first[2:], place, monkeypatch).exit_code == 0


def test_every_option_is_in_the_reference():
    from experiments.cli.inspect import command as inspect
    from experiments.cli.masks import command as masks

    for command in (masks, inspect):
        for option in (o for parameter in command.params for o in parameter.opts if o.startswith("--")):
            assert option in README, f"{command.name} {option}"


@pytest.mark.parametrize(
    "page",
    sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md"]),
    ids=lambda p: p.name,
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_figures_are_those_of_the_benchmark():
    """Rows of the README's table stand, to the letter, in the file that ``make bench`` writes."""
    section = README.split("## Speed and memory")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 5
    written = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    assert [row for row in rows if row not in written] == []
