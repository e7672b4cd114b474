"""The process in which a run is traced: ``python -m cerebras_utils.trace.child DIRECTORY FD``.

A process of its own, since what the vendor's backend sets up (device, flags, threads, hooks at exit) cannot
be taken back. Reads ``request.json`` of the directory and writes a JSON object a line to the pipe ``FD``:
``say`` is progress, ``problems`` ends it badly, ``done`` well. It ends when the process that asked is gone.
"""

import json
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pruning.problems import Problem, ProblemError

Tell = Callable[..., None]


def main(directory: Path, fd: int) -> None:
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()
    with os.fdopen(fd, "w") as pipe:

        def tell(**message: Any) -> None:
            print(json.dumps(message), file=pipe, flush=True)

        try:
            tell(done=trace_here(json.loads((directory / "request.json").read_text()), directory, tell))
        except Exception as error:
            traceback.print_exc()  # to the log, which is read as soon as the problems are told
            problems = [*_problems_in(error)] or [_unexpected(error, directory)]
            tell(problems=[[p.where, p.what, p.fix] for p in problems])
            sys.exit(1)


def trace_here(request: dict[str, Any], directory: Path, tell: Tell) -> dict[str, Any]:
    """Trace in this process; the graph's text is left in the directory, the rest returned."""
    from cerebras_utils.cszoo_yaml import load_config
    from cerebras_utils.trace.asked import asked

    phase = load_config(request["config"])[request["phase"]]
    plan = asked(phase)
    tell(say="importing cerebras-pytorch")
    from cerebras_utils.trace.interception import Caught, ReachedEndError, intercepted
    from cerebras_utils.trace.sent import parameters, sent

    seen: dict[str, Any] = {}
    once = None if plan.every_step else plan.mask_path

    def on_send(initial: Any) -> None:
        tell(say="reading what would be sent")
        seen["parameters"] = parameters()
        owners = {name: entry["argument"] for entry in seen["parameters"] for name in entry["names"]}
        seen["sent"] = sent(initial, owners, once)

    caught = Caught(on_send)
    with intercepted(caught):
        try:
            if request["through"] == "modelzoo":
                from cerebras_utils.trace.modelzoo import run_modelzoo

                tell(say="importing ModelZoo, building and tracing the model")
                run_modelzoo(phase, directory, stand_in_data=request["stand_in_data"])
            else:
                from cerebras_utils.trace.own_model import run_own

                tell(say="building and tracing the model")
                run_own(phase, directory)
        except ReachedEndError:
            pass
    assert caught.cirh is not None, "the run ended without a compile request"
    (directory / "graph.cirh").write_text(caught.cirh)
    return seen | {"peak": _peak()}


def _problems_in(error: BaseException | None) -> Iterator[Problem]:
    """Ours, from below whatever the trainer has wrapped around them."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ProblemError):
            yield from error.problems
            return
        error = error.__cause__ or error.__context__


def _unexpected(error: BaseException, directory: Path) -> Problem:
    while error.__cause__ is not None:  # the trainer wraps what a hook raises
        error = error.__cause__
    said = _lowering_error(directory) or " ".join(str(error).split()) or "no reason given"
    what = f"{type(error).__name__}: {said[:600]}"
    fix = "mend what it names; --log FILE keeps all that the Cerebras software printed"
    return Problem("the Cerebras software", what, fix)


def _lowering_error(directory: Path) -> str | None:
    """What torch-cirh-opt said, which the exception does not repeat."""
    for path in sorted(directory.rglob("executors/*/traceback_*.json")):
        return str(json.loads(path.read_text()).get("message"))
    return None


def _peak() -> int:
    """Bytes, of this process and of the largest that it has started."""
    sizes = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(sizes) * 1024


def _end_with_parent(directory: Path) -> None:
    """Its end of this pipe is closed by the system, in whatever way it dies."""
    sys.stdin.buffer.read()
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
