"""What is asked of a conversion, and the files that it leaves."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.problems import Problem, ProblemError

LAYOUTS = ("same", "to_hf", "from_hf", "adapter")
_SUFFIXES = (".safetensors", ".mdl")


@dataclass(frozen=True, kw_only=True)
class Request:
    checkpoint: Path
    out: Path  # a directory for to_hf and adapter, a file otherwise
    layout: str = "same"
    base: Path | None = None
    masks: Path | None = None
    keep: bool = True  # zeros of the base, or of its masks, stay zero
    config: Path | None = None
    alphas: Sequence[tuple[str, float]] = ()  # (glob, alpha): instead of the recorded

    def __post_init__(self) -> None:
        assert self.layout in LAYOUTS, self.layout

    @property
    def files(self) -> dict[str, Path]:
        """By what is in them. ``masks`` is written only where there are masks."""
        if self.layout == "to_hf":
            return {
                "weights": self.out / "model.safetensors",
                "config": self.out / "config.json",
                "masks": self.out.with_name(
                    f"{self.out.name}.masks.safetensors"
                ),  # in it, it would be loaded
                "receipt": self.out / "merge.json",
            }
        if self.layout == "adapter":
            return {
                "weights": self.out / "adapter_model.safetensors",
                "config": self.out / "adapter_config.json",
                "receipt": self.out / "merge.json",
            }
        beside = {"receipt": self.out.with_name(f"{self.out.stem}.merge.json")}
        if self.layout == "from_hf":
            beside["masks"] = self.out.with_name(f"{self.out.stem}.masks.safetensors")
            beside["config"] = self.out.with_name(f"{self.out.stem}.model.yaml")
        return {"weights": self.out, **beside}

    def check(self) -> None:
        """Nothing that exists is written over, and the name of a file says its format."""
        directory = self.layout in ("to_hf", "adapter")
        other = f"choose an --out of another name than {self.out.stem}, whatever its suffix: what is left "
        other += "beside the result is named after it"
        problems = [
            Problem(
                str(path),
                "exists already, and finished files are never changed",
                "choose another --out" if directory or kind == "weights" else other,
            )
            for kind, path in self.files.items()
            if os.path.lexists(path)
        ]
        if directory and self.out.suffix in _SUFFIXES:
            problems.append(Problem(str(self.out), "is to be a directory", "leave out the suffix"))
        if not directory and self.out.suffix not in _SUFFIXES:
            what = f"its end, {self.out.suffix or 'none'}, says no format that is written"
            problems.append(Problem(str(self.out), what, f"end the name in {' or '.join(_SUFFIXES)}"))
        if problems:
            raise ProblemError(problems)
