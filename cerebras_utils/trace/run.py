"""A config, traced: the child process that does it, and the report of what came back.

Nothing of a trace stays behind: the process ends, with all that it changed in itself, and the directory that
it wrote to is removed. Only what was asked to be kept is kept.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import cerebras_utils
from cerebras_utils.cszoo_yaml import Phase, load_config
from cerebras_utils.trace.asked import Asked, asked
from cerebras_utils.trace.report import Report, Trace, judge
from cerebras_utils.trace.software import OWN, Software, software
from pruning.atomic import Part
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError, fail

Say = Callable[[str], None]


@dataclass(frozen=True)
class Traced:
    """One trainer of a config, traced and judged."""

    key: str
    through: str
    asked: Asked
    trace: Trace
    report: Report
    seconds: float
    peak: int  # bytes

    def as_json(self) -> dict[str, Any]:
        return {
            "trainer": self.key,
            "through": self.through,
            "asked": self.asked.words,
            "arguments": len(self.trace.arguments),
            "hints": self.trace.hints,
            "masks": self.trace.masks,
            "weights": [asdict(row) for row in self.report.rows],
            "problems": [asdict(problem) for problem in self.report.problems],
            "seconds": round(self.seconds, 1),
            "peak_bytes": self.peak,
        }


@dataclass(frozen=True, kw_only=True)
class Options:
    through: str | None = None
    stand_in_data: bool = False
    keep_cirh: Path | None = None
    log: Path | None = None


def trace(config: Path, options: Options, say: Say) -> list[Traced]:
    """Each trainer of the file. Raises ``ProblemError`` for what cannot be traced; the reports judge."""
    phases = load_config(config)
    plans = [asked(phase) for phase in phases]
    found = software(options.through)
    for path in {plan.mask_path for plan in plans if plan.mask_path is not None}:
        MaskFile(path).close()
    kept = _targets(options.keep_cirh, len(phases))
    for note in found.notes:
        say(note)
    if options.stand_in_data and found.through == OWN:
        say("--stand-in-data has no effect: this project's own model is always traced with zeros")
    say(f"tracing through {found.words}, for the CS-3 and without one")
    traced = []
    with _log(options.log) as log:
        for index, (phase, plan) in enumerate(zip(phases, plans, strict=True)):
            if len(phases) > 1:
                say(f"{phase.key}:")
            traced.append(_one(phase, index, plan, found, options, kept[index], log, say))
    return traced


def _one(
    phase: Phase,
    index: int,
    plan: Asked,
    found: Software,
    options: Options,
    keep: Path | None,
    log: IO[bytes],
    say: Say,
) -> Traced:
    begun = time.monotonic()
    config = str(Path(phase.document.path).resolve())
    request = {
        "config": config,
        "phase": index,
        "through": found.through,
        "stand_in_data": options.stand_in_data,
    }
    with tempfile.TemporaryDirectory(prefix="wafersparse-trace-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        (directory / "request.json").write_text(json.dumps(request))
        seen = _child(directory, found, phase, log, say, with_locations=keep is not None)
        text = (directory / "graph.cirh").read_text()
    if keep is not None:
        with Part(keep) as part:
            part.write(text.encode())
    traced = Trace.read(text, seen)
    seconds = time.monotonic() - begun
    return Traced(phase.key, found.words, plan, traced, judge(traced, plan), seconds, seen["peak"])


def _child(
    directory: Path, found: Software, phase: Phase, log: IO[bytes], say: Say, *, with_locations: bool
) -> dict[str, Any]:
    ours = str(Path(cerebras_utils.__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PATH": found.path,
        "PYTHONPATH": os.pathsep.join(p for p in (ours, os.environ.get("PYTHONPATH", "")) if p),
        "TMPDIR": str(directory),
    }
    if not with_locations:  # in the graph's text, the places in Python: a third of the time, and no hint
        environment.setdefault("CSTORCH_DEBUG", "0")
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "cerebras_utils.trace.child", str(directory), str(writer)]
    with os.fdopen(reader) as pipe:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            env=environment,
            start_new_session=True,
        )
        os.close(writer)
        try:
            return _listen(pipe, process, phase, say)
        finally:
            _end(process)


def _listen(pipe: IO[str], process: subprocess.Popen[bytes], phase: Phase, say: Say) -> dict[str, Any]:
    for line in pipe:
        message = json.loads(line)
        if "say" in message:
            say(message["say"])
        elif "problems" in message:
            raise ProblemError(Problem(*problem) for problem in message["problems"])
        else:
            done: dict[str, Any] = message["done"]
            return done
    code = process.wait()
    what = f"the tracing process ended without a word ({_ended(code)})"
    raise fail(phase.where(), what, "see what it printed with --log FILE; out of memory is a common reason")


def _ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, and the loader processes that it started: all are in a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _targets(keep: Path | None, count: int) -> list[Path | None]:
    """A file for each trainer: ``graph.cirh``, or ``graph-1.cirh`` and so on. None may exist."""
    if keep is None:
        return [None] * count
    several = [keep.with_name(f"{keep.stem}-{i + 1}{keep.suffix}") for i in range(count)]
    targets = [keep] if count == 1 else several
    taken = [target for target in targets if os.path.lexists(target)]
    if taken:
        what = "exists already, and finished files are never changed"
        raise ProblemError(
            Problem(str(target), what, "remove it, or choose another name") for target in taken
        )
    return [*targets]


@contextmanager
def _log(path: Path | None) -> Iterator[IO[bytes]]:
    """What the vendor prints: kept in a file, or nowhere. Also when the trace fails: then it is wanted."""
    if path is None:
        with open(os.devnull, "wb") as nowhere:
            yield nowhere
        return
    part = Part(path)
    with os.fdopen(os.dup(part.fd), "wb") as stream:
        try:
            yield stream
        finally:
            stream.flush()
            part.commit()
