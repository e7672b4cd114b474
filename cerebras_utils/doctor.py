"""All checks on one config: what is wrong, suspicious, estimated, and what could not be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from cerebras_utils.checks.case import Case, Files
from cerebras_utils.checks.registry import CHECKS, SUBJECTS, Doubt, Entry, Estimate, NotMade
from cerebras_utils.cszoo_yaml import Phase, load_config
from pruning.problems import Problem, ProblemError

_MODULES = {"estimate": "flops"}  # where a subject is not named as its file


@dataclass(frozen=True)
class Report:
    """What the checks found, each with the name of the check."""

    problems: list[tuple[str, Problem]] = field(default_factory=list)
    warnings: list[tuple[str, Problem]] = field(default_factory=list)
    not_made: list[tuple[str, str]] = field(default_factory=list)
    estimates: list[tuple[str, Estimate]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)  # once for each trainer

    def failed(self, strict: bool) -> bool:
        return bool(self.problems or (strict and self.warnings))

    def to_json(self) -> dict[str, Any]:
        return {
            "problems": [_plain(name, problem) for name, problem in self.problems],
            "warnings": [_plain(name, problem) for name, problem in self.warnings],
            "not_made": [{"check": name, "reason": reason} for name, reason in self.not_made],
            "estimates": [
                {
                    "check": name,
                    "where": found.where,
                    "name": found.name,
                    "estimated": found.value,
                    "text": found.text,
                    "how": found.how,
                }
                for name, found in self.estimates
            ],
            "made": len(self.made),
        }


def examine(
    config: str | Path,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    modelzoo: bool = True,
    opened: Files | None = None,
) -> Report:
    """Make every check on every trainer of a file. What cannot be read as a config is a report of that alone.

    ``device`` is the command line's word, which wins over the config's. ``modelzoo`` False leaves its
    own schema out, which takes seconds to import. ``opened`` are files that many configs share, and that stay
    open for whoever gave them.
    """
    report = Report()
    try:
        phases = load_config(config)
    except ProblemError as error:
        report.problems.extend(("config.keys", problem) for problem in error.problems)
        report.not_made.extend((entry.name, "the config cannot be read") for entry in entries())
        return report
    files = Files() if opened is None else opened
    try:
        cases = [
            Case(phase, phases, files, checkpoint=checkpoint, device=device, modelzoo=modelzoo)
            for phase in phases
        ]
        for entry in entries():
            for case in cases[:1] if entry.once else cases:
                _make(entry, case, report)
    finally:
        if opened is None:
            files.close()
    _tidy(report, phases)
    return report


def entries() -> list[Entry]:
    """All checks, by subject, in the order in which they are written."""
    for subject in SUBJECTS:
        import_module(f"cerebras_utils.checks.{_MODULES.get(subject, subject)}")
    found = [CHECKS[name] for name in CHECKS]
    order = {entry.name: entry.run.__code__.co_firstlineno for entry in found}
    return sorted(found, key=lambda entry: (SUBJECTS.index(entry.subject), order[entry.name]))


def _make(entry: Entry, case: Case, report: Report) -> None:
    try:
        for found in entry.run(case):
            if isinstance(found, Estimate):
                report.estimates.append((entry.name, found))
            elif isinstance(found, Doubt):
                report.warnings.append((entry.name, found))
            else:
                report.problems.append((entry.name, found))
    except NotMade as reason:
        several = f"{case.phase.key}: " if len(case.phases) > 1 and not entry.once else ""
        report.not_made.append((entry.name, f"{several}{reason}"))
        return
    except ProblemError as error:
        report.problems.extend((entry.name, problem) for problem in error.problems)
    report.made.append(entry.name)


def _tidy(report: Report, phases: Sequence[Phase]) -> None:
    """With the lines of the file; and what two checks, or two uses of one alias, say alike, once."""
    document = phases[0].document
    seen: set[tuple[str, str, str]] = set()
    texts = {document.locate(p).where for name, p in report.problems if name == "config.keys"}
    for found in (report.problems, report.warnings):
        kept = []
        for name, problem in found:
            place = document.locate(problem).where
            again = place in texts and name != "config.keys"  # a text for a number, said by its reader too
            if (place, problem.what, problem.fix) not in seen and not again:
                seen.add((place, problem.what, problem.fix))
                kept.append((name, replace(problem, where=place)))
        found[:] = kept
    report.estimates[:] = [
        (name, replace(found, where=document.locate(Problem(found.where, "", "")).where))
        for name, found in report.estimates
    ]


def _plain(name: str, problem: Problem) -> Mapping[str, str]:
    return {"check": name, "where": problem.where, "what": problem.what, "fix": problem.fix}
