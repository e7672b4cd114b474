"""``SparseMaskCallback``: masks from a file, kept on the weights while a model trains.

``apply_every_step: true`` keeps the pattern throughout: weights, gradients and optimizer state
are zero under the mask after every step. ``false`` applies the masks once, to the weights that a
run starts from, and trains densely from there.

One class for both backends. On ModelZoo's trainer the masks go to the vendor's sparsity API
(``vendor_masks``), on plain PyTorch they are applied here (``plain_masks``). Either way they are
compared with those of a checkpoint, verified after every step where the weights are at hand, and
counted again in the checkpoint that a run leaves.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebras_utils.hooks import Hooks
from cerebras_utils.mask_audit import Layer, as_json, audit
from cerebras_utils.plain_masks import PlainMasks
from cerebras_utils.trainer_state import checkpoint_behind
from pruning.problems import Problem, ProblemError, fail

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cerebras_utils.vendor_masks import VendorMasks

MARK = "sparse_mask_callback"  # in a checkpoint: what was applied, and which masks
_MASK = "_mask"


class SparseMaskCallback(Hooks):
    def __init__(self, mask_path: str, apply_every_step: bool = True) -> None:
        self.mask_path = str(mask_path)
        self.apply_every_step = apply_every_step
        self.digest = ""
        self._held: PlainMasks | VendorMasks = PlainMasks(self.mask_path, apply_every_step)
        self._applied = False  # once: the weights that were loaded are, or come from, masked ones
        self._stepped = False
        self._start: str | None = None  # the checkpoint that was loaded
        self._saved: str | None = None  # the last that this run has written
        self._before: dict[str, int] | None = None  # zeros among the kept weights when the run began
        self._audit: dict[str, Layer] | None = None

    def pre_setup(self, trainer: Any) -> None:
        self.digest = file_digest(Path(self.mask_path))
        if "sparsity" in trainer.callbacks:  # one of the core callbacks of ModelZoo's trainer
            from cerebras_utils.vendor_masks import VendorMasks

            self._held = VendorMasks(self.mask_path, self.apply_every_step)
        self._held.pre_setup(trainer)

    def setup(self, trainer: Any) -> None:
        """Every mask must find its weight with its shape; all that do not are reported together."""
        self._held.setup(trainer)

    # Every step

    def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        if self.apply_every_step:
            self._held.before_step()

    def on_after_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        self._stepped = True
        if self.apply_every_step:
            self._held.after_step(optimizer)

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After whatever else writes to the weights, and before they are saved."""
        if self._stepped:
            self._stepped = False
            self._held.verify(f"step {trainer.global_step}")

    # The weights that a run starts from, with and without a checkpoint

    def on_fit_start(self, trainer: Any, train_dataloader: Any, val_dataloader: Any, loop: Any) -> None:
        if self.apply_every_step or (trainer.global_step == 0 and not self._applied):
            self._held.start(trainer.optimizer)
        layers = self._held.layers()
        if layers is None and self._start is not None and not _is_remote(self._start):
            layers = audit(Path(self._start), Path(self.mask_path), missing_ok=True)
        self._before = None if layers is None else {name: layer.dead for name, layer in layers.items()}

    def on_train_start(
        self, trainer: Any, model: Any, train_dataloader: Any, loop: Any, loop_idx: int
    ) -> None:
        self._stepped = False

    def on_validate_start(self, trainer: Any, model: Any, val_dataloader: Any, loop: Any) -> None:
        if self.apply_every_step:
            self._held.mask_weights()

    # Checkpoints

    def on_before_load_checkpoint(self, trainer: Any, ckpt_path: str | None) -> None:
        if ckpt_path is not None:
            self._start = checkpoint_behind(str(ckpt_path))

    def preprocess_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        """A checkpoint's masks must be these; what was started from masked weights is not masked again."""
        mark = state_dict.pop(MARK, None)
        if (model := state_dict.get("model")) is None:
            return
        self._compare(trainer, model)
        self._held.into_model(trainer, state_dict, self._start or "the checkpoint")
        if self.apply_every_step:
            return
        state_dict.pop("sparsity", None)
        if mark is None and self._start is not None:
            mark = read_mark(self._start)  # a callback that loads the model alone has removed it
        if mark is not None and mark.get("sha256") != self.digest:
            raise fail(
                self.mask_path,
                "the checkpoint was trained from the masks of another file "
                f"(sha256 {str(mark.get('sha256'))[:12]}…, this is {self.digest[:12]}…)",
                "resume with the mask file that the run was started with",
            )
        if mark is None:
            for name, mask in self._held.each():
                if name in model:
                    model[name] = model[name] * mask.to(model[name].device)
        self._applied = True

    def on_save_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        mode = "every_step" if self.apply_every_step else "once"
        state_dict[MARK] = {"mode": mode, "sha256": self.digest}
        self._held.into_checkpoint(state_dict["model"])

    def on_after_save_checkpoint(self, trainer: Any, ckpt_path: str) -> None:
        self._saved = str(ckpt_path)

    # Autorestart asks for these two. A restart loads a checkpoint, which has the mark.

    def on_save_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...
    def on_load_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...

    # Receipt

    def on_fit_end(self, trainer: Any, loop: Any) -> None:
        """Read back what was saved. A weight that came back is an error, even if it is the last thing."""
        if self._saved is None or _is_remote(self._saved):
            return
        self._audit = audit(Path(self._saved), Path(self.mask_path))
        back = {name: layer.resurrected for name, layer in self._audit.items() if layer.resurrected}
        if back and self.apply_every_step:
            raise ProblemError(
                Problem(
                    f"{self._saved}: {name}",
                    f"{count:,} weights that the mask drops are not zero in the saved checkpoint",
                    "do not use this checkpoint as a sparse one; take out what writes to it after the masks",
                )
                for name, count in back.items()
            )

    def masked(self) -> "Iterator[tuple[str, nn.Parameter, Tensor]]":
        """The masked weights by name, each with its mask, True = keep. On plain PyTorch."""
        assert isinstance(self._held, PlainMasks)
        for name, mask in self._held.masks.items():
            yield name, self._held.weights[name], mask

    def receipt(self) -> dict[str, Any]:
        """Per layer, what was found in the checkpoint that was saved; without one, in memory.

        ``newly_dead`` is None where nobody knows what was zero when the run began, ``layers`` where
        there was neither a checkpoint to read nor a weight: a CS-3 that saved nothing.
        """
        layers = self._audit or self._held.layers()
        return {
            "mask_path": self.mask_path,
            "sha256": self.digest,
            "apply_every_step": self.apply_every_step,
            "found_in": self._saved if self._audit else None if layers is None else "memory",
            **as_json(layers, self._before),
        }

    def _compare(self, trainer: Any, model: dict[str, Any]) -> None:
        problems = []
        for name, mask in self._held.each():
            theirs = model.get(f"{name}{_MASK}")
            if theirs is not None and (differ := int((theirs.to(mask.device).bool() != mask).sum())):
                problems.append(
                    Problem(
                        f"{self.mask_path}: {name}",
                        f"differs from the mask in the checkpoint in {differ:,} of {mask.numel():,} weights",
                        "resume with the masks it was trained with, or start from dense weights",
                    )
                )
        weights = dict(trainer.model.named_parameters(remove_duplicate=False))
        ours = {id(weights[name]) for name in self._held.masks}
        for name in (key.removesuffix(_MASK) for key in model if key.endswith(_MASK)):
            if name in weights and id(weights[name]) not in ours:
                what = f"has no mask for {name}, and the checkpoint has one"
                problems.append(Problem(self.mask_path, what, "use the masks it was trained with"))
        if problems:
            raise ProblemError(problems)


def read_mark(checkpoint: str) -> dict[str, Any] | None:
    """What a callback of this kind wrote into a checkpoint, read from the file itself."""
    from pruning.checkpoint.mdl_file import MdlSource
    from pruning.checkpoint.open import open_checkpoint

    if _is_remote(checkpoint):
        return None
    with open_checkpoint(Path(checkpoint)) as source:
        scalars = source.scalars() if isinstance(source, MdlSource) else {}
    mark = {key.removeprefix(f"{MARK}."): v for key, v in scalars.items() if key.startswith(f"{MARK}.")}
    return mark or None


def file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror}", "check the path") from error


def _is_remote(path: str) -> bool:
    return path.lower().startswith("s3://")
