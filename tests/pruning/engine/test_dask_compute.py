"""The engine on Dask workers gives the bits of one process, also when a worker is killed in the middle."""

import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pruning.checkpoint.open import open_checkpoint
from pruning.engine.compute import write_mask_files
from pruning.engine.stream import Sizes
from pruning.planning.plan import make_plan
from pruning.planning.spec import MaskSpec
from pruning.problems import ProblemError

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed: the extra `dask`")
from pruning.engine.dask_compute import write_mask_files_on  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZES = Sizes(workers=1, chunk=1 << 10, piece=1 << 10)  # many pieces of small tensors


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def checkpoint(path: Path, dtype: torch.dtype = torch.float32, *, tied: bool = False) -> Path:
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"layers.{n}.linear.weight": torch.randn(64, 100 + 4 * n, generator=generator) for n in range(6)
    }
    if tied:  # a handful of values: quotas of equal keys are shared out over many pieces
        weights = {name: (10 * weight).round() / 10 for name, weight in weights.items()}
    save_file({name: weight.to(dtype) for name, weight in weights.items()}, path)
    return path


def both(client: Any, path: Path, out: Path, **spec: Any) -> tuple[list[bytes], list[bytes]]:
    levels = [None] if "pattern" in spec and ":" in spec["pattern"][:3] else [Decimal("0.5"), Decimal("0.8")]
    specs = [MaskSpec(sparsity=level, **spec) for level in levels]
    with open_checkpoint(path) as source:
        plan = make_plan(source, specs)
        here = [out / f"here{n}.safetensors" for n in range(len(specs))]
        kept = write_mask_files(source, plan, here, sizes=SIZES)
    there = [out / f"there{n}.safetensors" for n in range(len(specs))]
    assert write_mask_files_on(client, path, plan, there, sizes=SIZES) == kept
    return [p.read_bytes() for p in here], [p.read_bytes() for p in there]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"allocation": "global"},
        {"score": "random", "seed": 3, "allocation": "global"},
        {"pattern": "2:4"},
        {"pattern": "block:4x4"},
        {"pattern": "row", "score": "l2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bytes(client: Any, tmp_path: Path, spec: dict[str, Any], dtype: torch.dtype) -> None:
    one, other = both(client, checkpoint(tmp_path / "m.safetensors", dtype), tmp_path, **spec)
    assert one == other


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_equal_scores_are_shared_out_alike(client: Any, tmp_path: Path, allocation: str) -> None:
    path = checkpoint(tmp_path / "m.safetensors", tied=True)
    one, other = both(client, path, tmp_path, allocation=allocation)
    assert one == other


def test_what_a_worker_finds_wrong_is_an_error_that_leaves_nothing(client: Any, tmp_path: Path) -> None:
    save_file({"a.weight": torch.full((64, 64), torch.nan)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as source:
        plan = make_plan(source, [MaskSpec(sparsity=Decimal("0.5"))])
    with pytest.raises(ProblemError, match="NaN or infinite"):
        write_mask_files_on(client, tmp_path / "m.safetensors", plan, [tmp_path / "out.safetensors"])
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_worker_that_is_killed_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path / "m.safetensors", tied=True)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        first = next(iter(client.run(os.getpid).values()))
        killed: list[int] = []

        def kill(nbytes: int) -> None:  # after the first task that came back
            if not killed:
                killed.append(first)
                os.kill(first, signal.SIGKILL)

        specs = [MaskSpec(sparsity=Decimal("0.5"), allocation="global")]
        with open_checkpoint(path) as source:
            plan = make_plan(source, specs)
            kept = write_mask_files(source, plan, [tmp_path / "here.safetensors"], sizes=SIZES)
        there = tmp_path / "there.safetensors"
        assert write_mask_files_on(client, path, plan, [there], sizes=SIZES, progress=kill) == kept
        assert first not in client.run(os.getpid).values()
    assert killed
    assert there.read_bytes() == (tmp_path / "here.safetensors").read_bytes()
