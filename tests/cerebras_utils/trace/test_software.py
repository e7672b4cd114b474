"""Which Cerebras software is here: what is missing, or another release, is told before anything starts."""

import importlib.metadata
import sys

import pytest

from cerebras_utils.trace import software
from pruning.problems import ProblemError


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """An environment with these releases (None: not installed), its Python and PATH in own folders."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "path").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    def make(pytorch="2.10.0", modelzoo="2.10.0", lowering="bin"):
        releases = {"cerebras-pytorch": pytorch, "cerebras_modelzoo": modelzoo}

        def version(name):
            if releases[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return releases[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(software, "modelzoo_is_here", lambda: modelzoo is not None)
        if lowering:
            tool = tmp_path / lowering / "torch-cirh-opt"
            tool.write_text("#!/bin/sh\n")
            tool.chmod(0o755)
        return tmp_path

    return make


def problems(through=None):
    with pytest.raises(ProblemError) as caught:
        software.software(through)
    return caught.value.problems


def test_modelzoo_where_it_is_and_our_own_model_elsewhere(environment):
    environment()
    assert software.software().words == "ModelZoo 2.10.0 on cerebras-pytorch 2.10.0"
    assert software.software("own").through == "own"
    environment(modelzoo=None)
    assert software.software().words == "wafersparse's own model on cerebras-pytorch 2.10.0"


def test_nothing_installed(environment):
    environment(pytorch=None, modelzoo=None, lowering=None)
    (problem,) = problems()
    assert problem.where == "cerebras-pytorch"
    assert "pip install cerebras-pytorch==2.10.0" in problem.fix


def test_another_release_is_named_beside_the_tested_one(environment):
    environment(pytorch="2.11.1", modelzoo="2.9.0")
    one, other = problems()
    assert (one.where, other.where) == ("cerebras-pytorch", "ModelZoo")
    assert "is 2.11.1" in one.what
    assert "tested with 2.10.0" in one.what
    assert "is 2.9.0" in other.what


def test_modelzoo_asked_for_and_not_here(environment):
    environment(modelzoo=None)
    (problem,) = problems("modelzoo")
    assert problem.where == "ModelZoo"
    assert "--through own" in problem.fix


def test_the_lowering_tool_beside_python_is_used_and_said(environment):
    place = environment()
    found = software.software()
    assert found.path.split(":")[0] == str(place / "bin")
    assert len(found.notes) == 1
    assert str(place / "bin" / "torch-cirh-opt") in found.notes[0]


def test_the_lowering_tool_on_the_path_needs_no_word(environment):
    place = environment(lowering="path")
    assert software.software().path == str(place / "path")
    assert not software.software().notes


def test_no_lowering_tool_at_all(environment):
    environment(lowering=None)
    (problem,) = problems()
    assert problem.where == "torch-cirh-opt"
    assert "neither on PATH nor beside" in problem.what
