"""Runs through submitit and Dask, where those are installed: their own executors for one machine."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.sweep.claim import STATE, claim
from experiments.sweep.dask_cluster import run_on_dask
from experiments.sweep.local import Todo
from experiments.sweep.slurm import submit
from experiments.sweep.states import statuses, write_once
from pruning.problems import ProblemError
from tests.experiments.sweep.sweeps import planned_run, write_sweep


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


@dataclass
class Submitit:
    """In the place of the package: takes jobs, of which nothing is heard any more."""

    given: dict[str, Any] = field(default_factory=dict)
    taken: int = 0
    core: Any = None

    def AutoExecutor(self, folder: Path, cluster: str) -> "Submitit":  # noqa: N802  # submitit's name
        self.core = SimpleNamespace(utils=SimpleNamespace(FailedJobError=KeyError))
        return self

    def update_parameters(self, **given: Any) -> None:
        self.given = given

    def map_array(self, function: Any, todos: list[Todo]) -> list[Any]:
        self.taken += len(todos)
        return [SimpleNamespace(job_id=f"7_{number}") for number in range(len(todos))]


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> Submitit:
    fake = Submitit()
    monkeypatch.setitem(sys.modules, "submitit", fake)
    return fake


def test_what_bounds_a_sweep_wins_over_what_its_file_says(tmp_path: Path, submitit: Submitit) -> None:
    """On a CS-3 the bound is 1."""
    submit(todos(tmp_path), {"slurm_array_parallelism": 4}, tmp_path, 1, print)
    assert submitit.given == {"slurm_array_parallelism": 1}


AXES = {"masks": {"sparsity": 0.5}, "seed": [1]}


def sweep(*words: str, **changes: Any) -> Result:
    path = write_sweep(axes=AXES, **changes)
    return CliRunner().invoke(main, ["sweep", str(path), "--executor", "slurm", *words])


@pytest.mark.usefixtures("place")
def test_runs_whose_job_was_cancelled(submitit: Submitit) -> None:
    first = sweep()
    assert (first.exit_code, submitit.taken) == (0, 2)
    again = sweep()
    assert (again.exit_code, submitit.taken) == (0, 2)  # they may still wait
    assert "2 planned" in again.stdout
    assert "2 of them wait in job 7_0, job 7_1; where a job is gone:" in again.stdout
    assert "wafersparse sweep sweep.yaml --out runs/tiny --resume --executor slurm" in again.stdout
    resumed = sweep("--resume")
    assert (resumed.exit_code, submitit.taken) == (0, 4)


@pytest.mark.usefixtures("place")
def test_failed_runs_are_a_failure_where_nothing_was_submitted(submitit: Submitit) -> None:
    assert sweep().exit_code == 0
    for run in Path("runs/tiny").glob("*/seed1"):
        mine = claim(run / STATE, 1)
        assert mine is not None
        write_once(mine.end, {"state": "failed", "reason": "no room"})
    assert sweep().exit_code == 1
    assert submitit.taken == 2
    assert sweep("--resume").exit_code == 0  # they wait again
    assert {status.submitted for status in statuses(Path("runs/tiny"))} == {"job 7_0", "job 7_1"}


@pytest.mark.usefixtures("place")
def test_only_runs_on_a_cs3_take_turns() -> None:
    from experiments.cli.sweep import _todos
    from experiments.sweep.plan import make_plan
    from experiments.sweep.spec import read_spec

    for device, turns in (("CPU", None), ("CSX", Path("runs/.wafersparse/turns").absolute())):
        plan = make_plan(read_spec(write_sweep(axes=AXES, backend=None, device=device)), Path("runs"))
        assert {todo.turns for todo in _todos(plan, False)} == {turns}


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

    @pytest.mark.parametrize(
        "given",
        [{"cluster": "debug", "timeout": "x"}, {"cluster": "local", "timeout_min": "abc"}, {"cluster": 5}],
    )
    def test_a_parameter_that_submitit_does_not_know(self, tmp_path: Path, given: dict[str, Any]) -> None:
        with pytest.raises(ProblemError, match="submitit refuses"):
            submit(todos(tmp_path), given, tmp_path, 1, print)

    def test_what_sbatch_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        for name, words in (("srun", "exit 0"), ("sbatch", "echo 'no such partition' >&2; exit 1")):
            program = tmp_path / "bin" / name
            program.write_text(f"#!/bin/sh\n{words}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        with pytest.raises(ProblemError, match=r"sbatch failed: .*no such partition"):
            submit(todos(tmp_path), {"timeout_min": 5}, tmp_path, None, print)


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
        [
            ({"cluster": "slrum"}, "Did you mean 'slurm'"),
            ({"cluster": "pbs"}, "cores, memory"),
            ({"cluster": "local", "jobs": "two"}, "'two' is no number of workers"),
            ({"cluster": "local", "jobs": 0}, "0 is no number of workers"),
            ({"cluster": "local", "foo": 1}, "cannot be started: .*foo"),
            ({"scheduler": 5}, "is no address"),
            ({"scheduler": "tcp://head:8786", "jobs": 4}, "leave one of the two out"),
        ],
    )
    def test_what_cannot_be_a_cluster(self, tmp_path: Path, parameters: dict[str, Any], said: str) -> None:
        if parameters.get("cluster") == "pbs":
            pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: the extra `dask`")
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


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("executor", "package", "changes"),
    [
        ("slurm", "submitit", {}),
        ("dask", "distributed", {}),
        ("dask", "dask_jobqueue", {"dask": {"cluster": "pbs"}}),
    ],
)
@pytest.mark.usefixtures("place")
def test_an_executor_that_is_not_installed_is_refused_before_any_mask_is_computed(
    executor: str, package: str, changes: dict[str, Any], dry: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace())
    path = write_sweep(axes=AXES, **changes)
    with without(package, monkeypatch):
        result = CliRunner().invoke(main, ["sweep", str(path), "--executor", executor, *dry])
    assert result.exit_code == 1, result.output
    assert f"wafersparse[{executor}]" in result.stderr
    assert not Path("runs").exists()
