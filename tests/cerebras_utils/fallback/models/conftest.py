import importlib.util
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[3] / "data/models"


@pytest.fixture(scope="session")
def recipes():
    """The module that recorded ModelZoo's numbers: its formulas of weights and batches."""
    spec = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recorded():
    return json.loads((FOLDER / "recorded.json").read_text())


@pytest.fixture(autouse=True)
def one_thread():
    """More threads may sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
