"""Runs on a Dask cluster: one that is there, one of this machine, or one of Slurm or PBS jobs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from experiments.sweep.local import Todo, run_one, said
from pruning.problems import fail
from pruning.registry import suggest

_CLUSTERS = ("local", "slurm", "pbs")


def installed(parameters: Mapping[str, Any]) -> Any:
    """``distributed``; a cluster of jobs needs ``dask_jobqueue`` as well."""
    needed = {"distributed": "dask.distributed"}
    if "scheduler" not in parameters and parameters.get("cluster") in ("slurm", "pbs"):
        needed["dask_jobqueue"] = "dask-jobqueue"
    for module, name in needed.items():
        try:
            import_module(module)
        except ImportError:
            fix = "pip install 'wafersparse[dask]'"
            raise fail("--executor dask", f"{name} is not installed here", fix) from None
    return import_module("distributed")


def run_on_dask(
    todos: Sequence[Todo],
    parameters: Mapping[str, Any],
    at_a_time: int | None,
    told: Callable[[str], None],
) -> None:
    """Waits for all of them. A worker that dies leaves its run to the supervisor, or lost."""
    distributed = installed(parameters)
    with _client(parameters, at_a_time, told) as client:
        waiting = list(todos)
        at_once = at_a_time or len(waiting)
        running: dict[Any, Todo] = {}

        def start() -> Any:
            todo = waiting.pop(0)
            future = client.submit(run_one, todo, pure=False, retries=0)
            running[future] = todo
            told(f"{todo.name}: handed to Dask (attempt {todo.attempt})")
            return future

        done = distributed.as_completed([start() for _ in range(min(at_once, len(waiting)))])
        for future in done:
            todo = running.pop(future)
            if future.status == "finished":
                told(said(todo, future.result()))
            else:
                told(f"{todo.name}: Dask says {future.status}: {future.exception()}")
            if waiting:
                done.add(start())


@contextmanager
def _client(
    parameters: Mapping[str, Any], at_a_time: int | None, told: Callable[[str], None]
) -> Iterator[Any]:
    from distributed import Client

    given = dict(parameters)
    if "scheduler" in given:
        with _connected(given) as client:
            yield client
        return
    kind = given.pop("cluster", "local")
    jobs = given.pop("jobs", at_a_time or 1)
    if kind not in _CLUSTERS:
        hint = suggest(str(kind), list(_CLUSTERS)).strip() or f"use {', '.join(_CLUSTERS)}"
        raise fail("dask: cluster", f"{kind!r} is no cluster", hint)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise fail("dask: jobs", f"{jobs!r} is no number of workers", "write a whole number from 1")
    with _cluster(kind, jobs, given) as cluster, Client(cluster) as client:
        told(f"dask: {kind} cluster, {jobs} worker{'s' * (jobs != 1)}, {client.dashboard_link}")
        yield client


def _connected(given: dict[str, Any]) -> Any:
    from distributed import Client

    address = given.pop("scheduler")
    if given:
        what = "says how to start a cluster, and `scheduler` names one that is there"
        raise fail(f"dask: {', '.join(given)}", what, "leave one of the two out")
    fix = "start the scheduler, or mend dask.scheduler in the sweep"
    if not isinstance(address, str):
        raise fail(f"dask: scheduler: {address!r}", "is no address, as tcp://head:8786 is", fix)
    try:
        return Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise fail(f"dask scheduler {address}", f"cannot be reached: {error}", fix) from None


def _cluster(kind: str, jobs: int, given: dict[str, Any]) -> Any:
    if kind == "local":
        from distributed import LocalCluster

        try:
            return LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None, **given)
        except (RuntimeError, ValueError, TypeError) as error:
            fix = "mend what is below `dask:`: parameters of distributed.LocalCluster"
            raise fail("dask: local", f"cannot be started: {_cause(error)}", fix) from error
    import dask_jobqueue

    maker = dask_jobqueue.SLURMCluster if kind == "slurm" else dask_jobqueue.PBSCluster
    try:
        cluster = maker(**given)
    except (ValueError, TypeError) as error:
        raise fail(
            f"dask: {kind}", str(error), "give cores, memory, queue and walltime below `dask:`"
        ) from error
    cluster.scale(jobs=jobs)
    return cluster


def _cause(error: BaseException) -> str:
    """Dask tells that nothing started; what it was raised from says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
