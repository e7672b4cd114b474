"""Runs through submitit and Dask, where those are installed: their own executors for one machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.claim import STATE
from experiments.sweep.dask_cluster import run_on_dask
from experiments.sweep.local import Todo
from experiments.sweep.slurm import submit
from experiments.sweep.states import statuses
from pruning.problems import ProblemError
from tests.experiments.sweep.sweeps import planned_run


def todos(out: Path, count: int = 2) -> list[Todo]:
    code = "open('ran', 'a').write('x')"
    runs = [planned_run(out, f"dense-0000000{n}/seed1", code) for n in range(count)]
    return [Todo(run, f"{run.parent.name}/seed1", 1) for run in runs]


def states(out: Path) -> list[str]:
    return [str(status.state) for status in statuses(out)]


@contextmanager
def without(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        yield


@pytest.mark.parametrize(("package", "extra"), [("submitit", "slurm"), ("distributed", "dask")])
def test_what_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    start = {
        "slurm": lambda: submit(todos(tmp_path), {}, tmp_path, None, print),
        "dask": lambda: run_on_dask(todos(tmp_path), {}, None, print),
    }
    with without(package, monkeypatch), pytest.raises(ProblemError) as error:
        start[extra]()
    assert f"wafersparse[{extra}]" in str(error.value)
    assert states(tmp_path) == ["planned", "planned"]


@pytest.mark.filterwarnings("ignore")  # of submitit, which leaves its process and its log file to themselves
class TestSubmitit:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("submitit", reason="submitit is not installed: it is the extra `slurm`")

    def test_jobs_run_and_are_noted(self, tmp_path: Path) -> None:
        told: list[str] = []
        submit(todos(tmp_path), {"cluster": "debug"}, tmp_path, None, told.append)
        assert states(tmp_path) == ["done", "done"]
        assert (tmp_path / "ran").read_text() == "xx"
        assert all("submitted as job" in line for line in told)

    def test_a_job_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        import time

        submit(todos(tmp_path, 1), {"cluster": "local"}, tmp_path, None, print)
        (noted,) = tmp_path.glob(f"*/seed1/{STATE}/submitted.json")
        assert "job" in noted.read_text()
        end = time.monotonic() + 60
        while states(tmp_path) != ["done"]:
            assert time.monotonic() < end
            time.sleep(0.1)

    def test_without_slurm_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ProblemError, match="call it where sbatch is"):
            submit(todos(tmp_path), {"timeout_min": 5}, tmp_path, 1, print)

    def test_a_parameter_that_submitit_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(ProblemError, match="submitit refuses"):
            submit(todos(tmp_path), {"cluster": "debug", "timeout": "x"}, tmp_path, 1, print)


@pytest.mark.filterwarnings("ignore")  # of distributed, which closes its sockets late
class TestDask:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("distributed", reason="dask.distributed is not installed: it is the extra `dask`")

    @pytest.mark.slow
    @pytest.mark.parametrize("at_a_time", [None, 1])
    def test_runs_on_a_cluster_of_this_machine(self, tmp_path: Path, at_a_time: int | None) -> None:
        told: list[str] = []
        run_on_dask(todos(tmp_path), {"cluster": "local", "jobs": 2}, at_a_time, told.append)
        assert states(tmp_path) == ["done", "done"]
        if at_a_time == 1:  # one ends before the next begins
            assert [line.split()[1] for line in told[1:]] == ["handed", "done", "handed", "done"]

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [({"cluster": "slrum"}, "Did you mean 'slurm'"), ({"cluster": "pbs"}, "cores, memory")],
    )
    def test_what_cannot_be_a_cluster(self, tmp_path: Path, parameters: dict[str, Any], said: str) -> None:
        pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: it is the extra `dask`")
        with pytest.raises(ProblemError, match=said):
            run_on_dask(todos(tmp_path), parameters, 1, print)

    def test_a_job_script_for_slurm(self) -> None:
        jobqueue = pytest.importorskip(
            "dask_jobqueue", reason="dask-jobqueue is not installed: it is the extra `dask`"
        )
        from experiments.sweep.dask_cluster import _cluster

        given = {
            "cores": 2,
            "memory": "4GB",
            "queue": "short",
            "scheduler_options": {"dashboard_address": None},
        }
        with _cluster("slurm", 0, given) as cluster:
            assert isinstance(cluster, jobqueue.SLURMCluster)
            assert "#SBATCH -p short" in cluster.job_script()
