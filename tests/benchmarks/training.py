"""What training costs: steps taken in turns, beside ModelZoo's, and checkpoints beside ``torch.save``."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cases import HERE, REPOSITORY, Settings, say
from measure import Spread, ratio, run
from rows import Asked, Row

LORA_STEPS = 15
STEPS = 20  # in a repetition; the first repetition is the warm-up
MODEL = "configs/gpt2_1m.yaml, batch 16 × 128 tokens"
UNMASKED = "unmasked"  # every other step of the masked training: two processes alike differ by 3 %
NAMES = {
    "dense": "a training step of the fallback",
    "masked": "the same with half of the projections masked after every step",
    "cszoo": "a step of ModelZoo's own trainer",
    "vendor": "a step of the fallback on the torch of ModelZoo",
}

LORA = {  # kinds of tests/benchmarks/lora.py, on 8 layers of 512 × 512, 512 tokens, rank 8
    "plain LoRA": "plain LoRA",
    "sparse_to_dense": "LoRA beside sparse weights (sparse_to_dense)",
    "sparse_to_sparse": "LoRA masked in the forward pass (sparse_to_sparse)",
    "multiplicative": "LoRA that scales the weights (multiplicative)",
}


@dataclass
class Training:
    """One entry per repetition, each with a figure per step or file."""

    steps: dict[str, list[list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    saves: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, dict[str, Any]] = field(default_factory=dict)
    reads: dict[str, Any] = field(default_factory=dict)


def measure(settings: Settings) -> Training:
    found = Training()
    work = settings.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as place:
        ours, theirs = Path(sys.executable), settings.vendor_python
        contestants = {"dense": (ours, "dense"), "masked": (ours, "masked"), "cszoo": (theirs, "cszoo")}
        if theirs != ours:
            contestants["vendor"] = (theirs, "dense")
        argv = {
            name: [str(python), str(HERE / "steps.py"), kind, place]
            for name, (python, kind) in contestants.items()
        }
        take_turns(argv, settings.runs, found)
        say(f"checkpoints: {settings.runs} runs and a warm-up")
        done = run([sys.executable, HERE / "saving.py", place, str(settings.runs)], cwd=REPOSITORY)
        found.saves = json.loads(done.out.splitlines()[-1])
        say("comparing many runs")
        done = run([sys.executable, HERE / "reading.py", place, str(settings.runs)], cwd=REPOSITORY)
        found.reads = json.loads(done.out.splitlines()[-1])
        say(f"LoRA: {LORA_STEPS} steps of each kind")
        lora = [sys.executable, "-m", "tests.benchmarks.lora", "--repeat", str(LORA_STEPS), "--json"]
        found.lora = json.loads(run(lora, cwd=REPOSITORY).out.splitlines()[-1])
    return found


def take_turns(argv: Mapping[str, Sequence[str]], runs: int, found: Training) -> None:
    """A step of each after the other, so that noise meets all of them; who waits does nothing."""
    with ExitStack() as stack:
        asked = {name: stack.enter_context(_contestant(name, command)) for name, command in argv.items()}
        for name, ask in asked.items():
            first = ask(None)
            if "missing" in first:
                found.missing[name] = first["missing"]
            else:
                found.versions[name] = first["versions"]
                found.steps |= {name: [], **({UNMASKED: []} if name == "masked" else {})}
        for repetition in range(runs + 1):
            say(f"training steps: {f'run {repetition} of {runs}' if repetition else 'warm-up'}")
            taken: dict[str, list[float]] = {name: [] for name in found.steps}
            for turn in range(STEPS):
                for name, seconds in taken.items():
                    if name != UNMASKED:
                        both = ["step", "unmasked"] if name == "masked" else ["step"]
                        for what in both if turn % 2 else reversed(both):
                            (taken[UNMASKED] if what == "unmasked" else seconds).append(asked[name](what))
            if repetition:
                for name, seconds in taken.items():
                    found.steps[name].append(seconds)


@contextmanager
def _contestant(name: str, argv: Sequence[str]) -> Iterator[Any]:
    """A function that asks the process for an answer."""
    with tempfile.TemporaryFile("w+") as talk:
        pipe = subprocess.PIPE
        child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=talk, text=True, cwd=REPOSITORY)
        assert child.stdin is not None
        assert child.stdout is not None
        question: IO[str] = child.stdin
        answers: IO[str] = child.stdout

        def ask(what: str | None) -> Any:
            if what is not None:
                question.write(f"{what}\n")
                question.flush()
            line = answers.readline()
            if not line:
                talk.seek(0)
                code, said = child.wait(), talk.read()[-4000:]
                raise SystemExit(f"{name}: exit code {code} of {' '.join(argv)}\n{said}")
            return json.loads(line)

        try:
            yield ask
        finally:
            child.kill()
            child.communicate()


def sections(found: Training) -> dict[str, list[Row]]:
    return {
        "Training steps": [*step_rows(found)],
        "LoRA on sparse weights": [*lora_rows(found.lora)],
        "Writing checkpoints": [*saving_rows(found.saves)],
        "Comparing runs": [*reading_rows(found.reads)],
    }


def step_rows(found: Training) -> Iterator[Row]:
    """A figure of a repetition is the median of its steps; a ratio that of pairs of steps."""
    yield _row(found, "dense", what=f"{NAMES['dense']}, {MODEL}")
    yield _row(found, "masked", over=UNMASKED, than="× without masks", asked=Asked("at most", 1.03, " ×"))
    if "cszoo" in found.missing:
        asked = Asked("at most", 1, " ×")
        yield Row(what=NAMES["cszoo"], why=f"not installed: {found.missing['cszoo']}", asked=asked)
        return
    torch = found.versions["cszoo"]["torch"]
    yield _row(found, "cszoo", what=f"{NAMES['cszoo']}, torch {torch}")
    yield _row(
        found,
        "dense",
        over="cszoo",
        what=f"{NAMES['dense']}, torch {found.versions['dense']['torch']}",
        than="× ModelZoo's",
        asked=Asked("at most", 1, " ×"),
    )
    if "vendor" in found.steps:
        what = f"{NAMES['vendor']}, {torch}"
        yield _row(found, "vendor", over="cszoo", what=what, than="× ModelZoo's")


def _row(found: Training, name: str, *, what: str = "", over: str = "", **given: Any) -> Row:
    taken = found.steps[name]
    pairs = zip(taken, found.steps[over], strict=True) if over else ()
    ratios = [statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs]
    return Row(
        what=what or NAMES[name],
        measured=Spread.of(statistics.median(steps) * 1e3 for steps in taken),
        format="{:.1f}",
        unit="ms",
        ratio=Spread.of(ratios) if over else None,
        **given,
    )


def lora_rows(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """A step of each kind, then what its forward pass keeps for the backward pass."""
    for kind, said in LORA.items():
        row = found[kind]
        times = Spread.of([row["from"], row["ms"], row["to"]])
        yield Row(
            what=f"a step of {said}",
            measured=times,
            format="{:.1f}",
            unit="ms",
            ratio=None if kind == "plain LoRA" else Spread.of([row["to plain LoRA"]]),
            than="× plain LoRA",
        )
    plain = found["plain LoRA"]["kept"]
    for kind, said in LORA.items():
        kept = found[kind]["kept"]
        yield Row(
            what=f"kept for the backward pass by {said}",
            measured=Spread.of([kept / 1e6]),
            format="{:.1f}",
            unit="MB",
            ratio=None if kind == "plain LoRA" else Spread.of([kept / plain]),
            than="× plain LoRA",
        )


def saving_rows(saves: Mapping[str, Any]) -> Iterator[Row]:
    size = f"{saves['bytes']['mdl'] / 1e6:.0f} MB"
    for how, said in (("synced", "and on the disk"), ("cached", "not synced, either of them")):
        ours, theirs = (Spread.of(saves["seconds"][f"{name} {how}"]) for name in ("mdl", "torch"))
        yield Row(what=f"`torch.save` of model and AdamW state, {size}, {said}", measured=theirs, unit="s")
        yield Row(
            what=f"a .mdl checkpoint of the same, {said}",
            measured=ours,
            unit="s",
            ratio=ratio(ours, theirs),
            than="× `torch.save`",
            asked=Asked("at most", 1.5, " ×"),
        )


def reading_rows(reads: Mapping[str, Any]) -> Iterator[Row]:
    size = f"{reads['runs']} runs of {reads['steps']:,} steps, {reads['bytes'] / 1e6:.0f} MB"
    for way, said in (("read", "every file read"), ("cached", "from its cache")):
        took = Spread.of(reads["seconds"][way])
        what = f"`wafersparse compare`, {size}, {said}"
        yield Row(what=what, measured=took, unit="s", asked=Asked("at most", 5, " s"))
