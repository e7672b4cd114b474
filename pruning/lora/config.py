"""What is asked of LoRA on sparse weights. Knows no model, so it can be checked without one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning.problems import Problem, ProblemError
from pruning.registry import suggest

MODES = {
    "sparse_to_dense": "sparse frozen weights, dense factors",
    "sparse_to_sparse": "the update is masked in the forward pass",
    "multiplicative": "the update is a multiple of each weight, W ⊙ BA: a zero stays one",
}
_WHERE = "SparseLoRAConfig"


@dataclass(frozen=True, kw_only=True)
class SparseLoRAConfig:
    """Factors ``lora_A`` (r, in) and ``lora_B`` (out, r) of the update ``scaling · B·A``.

    ``target_modules`` are class names, which must all be on the path to a layer as ModelZoo reads them,
    or globs on parameter names; a layer that any of the globs matches is taken.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0  # of the input of the update, not of the frozen layer's
    target_modules: Sequence[str] | None = ("Linear",)  # None: every Linear and Embedding, as in ModelZoo
    sparsity_mode: str = "sparse_to_dense"
    initial_sparsity: float | None = (
        None  # what the masks must have; without masks, what is pruned by magnitude
    )
    maintain_sparsity: bool | None = None  # None: as the mode has it. Anything else contradicts the mode
    preserve_sparsity_on_merge: bool = True
    rank_stabilized: bool = False  # scaling alpha / sqrt(r) (Kalajdzievski, arXiv:2312.03732), not alpha / r
    ranks: Mapping[str, int] = field(
        default_factory=dict
    )  # glob on parameter names → rank; the first match wins
    train_norms: bool = False
    train_bias: bool = False  # every bias, those of norms too
    seed: int | None = None  # of the factors' first values; None: torch's own generator

    def __post_init__(self) -> None:
        if problems := [*self._problems()]:
            raise ProblemError(problems)

    @property
    def keeps_zeros(self) -> bool:
        """Whether the update leaves zeros at zero while training, so that no merge has to."""
        return self.sparsity_mode != "sparse_to_dense"

    def scaling(self, r: int) -> float:
        return float(self.alpha / r**0.5) if self.rank_stabilized else self.alpha / r

    def _problems(self) -> Iterator[Problem]:
        for key, rank in (("r", self.r), *((f"ranks[{glob!r}]", rank) for glob, rank in self.ranks.items())):
            if not _is_whole(rank) or rank < 1:
                yield _problem(key, f"is {rank!r}, not a whole number from 1", "write a rank such as 8")
        if not _is_number(self.alpha) or not 0 < self.alpha < float("inf"):
            what = f"is {self.alpha!r}: the update is multiplied by it"
            yield _problem("alpha", what, "write a number above 0, such as twice the rank")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            yield _problem("dropout", f"is {self.dropout!r}", "write a number in [0, 1)")
        yield from self._target_problems()
        if self.sparsity_mode not in MODES:
            hint = suggest(str(self.sparsity_mode), list(MODES))
            yield _problem(
                "sparsity_mode", f"is {self.sparsity_mode!r}.{hint}", f"use one of {', '.join(MODES)}"
            )
        else:
            yield from self._contradictions()
        if self.initial_sparsity is not None and not (
            _is_number(self.initial_sparsity) and 0 < self.initial_sparsity < 1
        ):
            what = f"is {self.initial_sparsity!r}"
            yield _problem("initial_sparsity", what, "write a number between 0 and 1, or leave it out")
        if self.seed is not None and not _is_whole(self.seed):
            yield _problem("seed", f"is {self.seed!r}, not a whole number", "write a whole number")
        for key in ("preserve_sparsity_on_merge", "rank_stabilized", "train_norms", "train_bias"):
            if not isinstance(getattr(self, key), bool):
                yield _problem(key, f"is {getattr(self, key)!r}", "write true or false")

    def _target_problems(self) -> Iterator[Problem]:
        targets = self.target_modules
        if targets is None:
            return
        if isinstance(targets, str):
            yield _problem("target_modules", f"is the text {targets!r}, not a list", f"write [{targets!r}]")
        elif not targets or not all(isinstance(target, str) and target for target in targets):
            fix = "write class names or globs, such as ['Linear'] or ['*q_proj*']"
            yield _problem("target_modules", f"is {targets!r}", fix)

    def _contradictions(self) -> Iterator[Problem]:
        if self.maintain_sparsity is not None and self.maintain_sparsity != self.keeps_zeros:
            if self.keeps_zeros:
                what = f"is false, and {self.sparsity_mode} keeps the zeros in every forward pass"
                fix = "leave it out, or set sparsity_mode to sparse_to_dense"
            else:
                what = "is true, and sparse_to_dense adds a dense update to the sparse weights"
                fix = "set sparsity_mode to sparse_to_sparse, or leave it out"
            yield _problem("maintain_sparsity", what, fix)
        if self.keeps_zeros and self.preserve_sparsity_on_merge is False:
            what = f"is false, and what {self.sparsity_mode} trains is sparse: no merge makes it dense"
            yield _problem("preserve_sparsity_on_merge", what, "leave it out, or use sparse_to_dense")


def _problem(key: str, what: str, fix: str) -> Problem:
    return Problem(f"{_WHERE}.{key}", what, fix)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
