"""Errors that are told to another process, as autorestart's children and the workers of a sweep do."""

import pickle
from pathlib import Path

import pytest

from pruning.atomic import TargetExistsError
from pruning.problems import Problem, ProblemError

ONE = Problem("config.yaml: seed", "is 'x'", "write a number")
OTHER = Problem("config.yaml: model", "is missing", "add it")


@pytest.mark.parametrize(
    "error", [ProblemError([ONE]), ProblemError([ONE, OTHER]), TargetExistsError(Path("masks.safetensors"))]
)
def test_another_process_gets_the_same_problems_and_text(error):
    told = pickle.loads(pickle.dumps(error))
    assert type(told) is type(error)
    assert (told.problems, str(told)) == (error.problems, str(error))
