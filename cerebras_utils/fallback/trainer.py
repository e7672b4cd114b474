"""The training loop of ModelZoo's trainer on plain PyTorch: the same steps and hooks in the same order.

What a run needs is handed in; nothing here reads a config. A callback sees the attributes that
ModelZoo's trainer has: ``model``, ``optimizer``, ``schedulers``, ``callbacks``, ``global_step``, and
``log_metrics``.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from cerebras_utils.fallback.data.tokens import known_tokens
from cerebras_utils.fallback.interruption import InterruptedRunError, how_to_continue
from cerebras_utils.fallback.metrics import Evaluation
from cerebras_utils.fallback.not_finite import NotFiniteError, advice
from cerebras_utils.fallback.precision import Precision
from cerebras_utils.fallback.processes import Processes
from cerebras_utils.fallback.schedule import (
    Loop,
    Position,
    Stage,
    checkpoint_batches,
    left_of,
    refuse_nothing_left,
    rounds,
    total_steps,
)
from cerebras_utils.hooks import Hooks

Batch = dict[str, torch.Tensor]


class Loader(Protocol):
    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...
    @property
    def began(self) -> int: ...
    def go_on(self, began: int) -> None: ...
    def rewind(self) -> None: ...
    def restart(self) -> None: ...


class Report(Protocol):
    """Where a run says what happens: a terminal, event files, a log."""

    def scalars(self, values: dict[str, float], step: int, scope: str = "") -> None: ...
    def progress(self, step: int, steps: int, loss: float, tokens: int) -> None: ...
    def line(self, step: int, batch: int | None, values: dict[str, float]) -> None: ...
    def measured(self, stage: str, batches: int, performance: dict[str, float]) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(kw_only=True)
class Trainer:
    model: nn.Module  # on the device already, for the optimizer's states are where its parameters are
    optimizer: torch.optim.Optimizer | None
    schedulers: Sequence[Any]
    loop: Loop
    precision: Precision
    report: Report
    checkpoints: Any  # see cerebras_utils.fallback.checkpoints
    device: torch.device
    log_steps: int = 1
    checkpoint_steps: int | None = None
    save_initial_checkpoint: bool = False
    eval_metrics: bool = True  # perplexity and accuracy in validation
    phase: str = "trainer"  # which trainer of a config it is
    vocabulary: int  # token ids are below it
    asked_to_stop: Callable[[], bool] = lambda: False
    processes: Processes = field(default_factory=Processes)
    callbacks: "OrderedDict[str, Hooks]" = field(default_factory=OrderedDict)
    global_step: int = 0
    train_dataloader: Any = None  # while fitting: its position is part of a checkpoint
    stage: Stage = field(default_factory=lambda: Stage("train", 0))
    later: list[Stage] = field(default_factory=list)  # stages that come after this one
    _logged: dict[str, float] | None = None  # in a batch: what is logged when it is over, if it is logged
    _logs: bool = True  # this batch is logged
    _scope: str = ""  # in validation, what its tags begin with
    _steps: int = 0  # batches of the whole run
    _first: int = 0  # the global step that it began with
    _batches: int = 0  # it has trained on, since then
    _start: int = 0  # the global step that this process began with
    _save_at: frozenset[int] = frozenset()  # batches of this round after which a checkpoint is saved
    _saves_left: int = 0  # in the whole run

    def __post_init__(self) -> None:
        for hook in ("pre_setup", "setup", "post_setup"):
            self.processes.together(partial(self.call, hook))
        self._run = self.processes.runner(self.model, self.device, trains=self.optimizer is not None)

    def call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks.values():
            getattr(callback, hook)(self, *arguments)

    # Training

    def fit(self, train: Loader, validation: Sequence[Loader] = (), ckpt_path: Any = ...) -> None:
        """``ckpt_path``: a checkpoint, None for none, and ``...`` for the last one of the model directory."""
        with ExitStack() as stack:
            stack.enter_context(self._telling("fit"))
            self.call("on_enter_fit", stack, train, validation, self.loop)
            self.train_dataloader = train
            stack.callback(setattr, self, "train_dataloader", None)
            self.checkpoints.load(self, ckpt_path)
            parts = self._plan(train, validation)
            self.call("on_fit_start", train, validation, self.loop)
            last = parts[-1][0]
            for index, part in parts:
                if index > parts[0][0]:
                    train.rewind()  # as ModelZoo on a CPU, which begins every round with the same batches
                if part:
                    self._train_round(train, part, index, index == last)
                if self.loop.eval_frequency:
                    self._validate_all(validation, (None,), index, index == last)
            self.call("on_fit_end", self.loop)

    def resume(self, step: int, position: Position | None) -> None:
        """Before anything else of a checkpoint is loaded: it may be the last that there is to be.

        ``position``: of a checkpoint of this very run. From any other, a run begins.
        """
        self.global_step = self._first = self._start = step
        self._batches = 0
        if position is not None:
            self._first, self._batches = position.first, position.batches
        if self.train_dataloader is not None:
            refuse_nothing_left(self.loop, self._first, self._batches, step)

    @property
    def position(self) -> Position:
        return Position(self.phase, self._first, self._batches, self.train_dataloader.began)

    def _plan(self, train: Loader, validation: Sequence[Loader]) -> list[tuple[int, int]]:
        """The rounds of training that are left, by number."""
        done = self._batches
        steps = self._steps = total_steps(self.loop, len(train), self._first, done)
        parts = left_of(rounds(steps, self.loop.eval_frequency, bool(validation)), done)
        self.later = []
        for _, part in parts:
            if part:
                self.later.append(Stage("train", part))
            if self.loop.eval_frequency:
                self.later += [Stage(f"validate_{i}", self._eval_steps(v)) for i, v in enumerate(validation)]
        every = min(self.checkpoint_steps or 0, steps)
        self._saves_left = math.ceil(steps / every) - done // every if every else 0
        return parts

    def _train_round(self, train: Loader, batches: int, index: int, is_last: bool) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._telling("train"))
            self._enter(Stage("train", batches))
            self.call("on_enter_train", stack, train, self.loop, index)
            self._save_at = checkpoint_batches(
                self.checkpoint_steps,
                steps=self._steps,
                elapsed=self.global_step - self._first,
                batches=batches,
                is_last=is_last,
            )
            self.call("on_train_start", self.model, train, self.loop, index)
            if self._batches == 0 and self.save_initial_checkpoint:
                self.checkpoints.save(self)
            self._end_if_asked()
            self.model.train()
            accumulated = 0.0
            for batch_index, batch in zip(range(batches), self._endless(train), strict=False):
                stepping = (batch_index + 1) % self.loop.grad_accum_steps == 0
                batch = {name: value.to(self.device) for name, value in batch.items()}
                accumulated += self._train_batch(batch, batch_index, stepping, accumulated)
                if stepping:
                    accumulated = 0.0
                if batch_index in self._save_at:
                    self._saves_left -= 1
                    self.checkpoints.save(self)
                if stepping and batch_index + 1 < batches:
                    self._end_if_asked()
            self.call("on_train_end", self.model, self.loop, index)

    def _train_batch(self, batch: Batch, index: int, stepping: bool, accumulated: float) -> float:
        """The loss of the batch, as its share of the step's."""
        self._begin_batch(self._is_log_step(self.global_step + stepping))
        self.call("on_train_batch_start", self.model, batch, index)
        outputs = self._training_step(batch, stepping)
        loss = float(outputs["loss"])
        self.stage.done += 1
        self._batches += 1
        self.global_step += stepping
        if stepping:
            self.log_metrics(loss=accumulated + loss)
        self.call("on_train_batch_end", self.model, outputs, batch, index)
        values = self._end_batch()
        if stepping:
            parts = self.loop.grad_accum_steps
            tokens = batch["input_ids"].numel() * self.processes.world * parts
            self.report.progress(
                self.global_step, self._first + self._steps // parts, accumulated + loss, tokens
            )
            if values:
                self.report.line(self.global_step, None, values)
        return loss

    def _training_step(self, batch: Batch, stepping: bool) -> dict[str, torch.Tensor]:
        self.call("on_train_step_start", self.model, batch)
        with self._run.accumulating(not stepping):
            outputs = self._forward(batch, self.loop.grad_accum_steps)
            self.call("on_before_backward", self.model, outputs)
            torch.autograd.backward(outputs["loss"])
        self.call("on_after_backward", self.model, outputs)
        outputs["loss"] = self.processes.mean(outputs["loss"].detach())
        if not math.isfinite(outputs["loss"]):
            fix = advice(self.model, batch, begun=self.global_step > self._start)
            raise NotFiniteError(self.global_step + 1, float(outputs["loss"]), fix)
        if self.optimizer is not None and stepping:
            self._optimizer_step(self.optimizer)
        self.call("on_train_step_end", self.model, outputs, batch)
        return outputs

    def _optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.call("on_before_optimizer_step", self.model, optimizer)
        self.precision.clip(optimizer)
        optimizer.step()
        self.call("on_after_optimizer_step", self.model, optimizer)
        self.call("on_before_optimizer_zero_grad", self.model, optimizer)
        optimizer.zero_grad()
        self.call("on_after_optimizer_zero_grad", self.model, optimizer)
        for scheduler in self.schedulers:
            self.call("on_before_scheduler_step", self.model, optimizer, scheduler)
            scheduler.step()
            self.call("on_after_scheduler_step", self.model, optimizer, scheduler)

    def _forward(self, batch: Batch, parts: int = 1) -> dict[str, torch.Tensor]:
        """``parts``: of how many batches the loss is the mean."""
        with self.precision.autocast(self.device):
            self.call("on_before_forward", self.model, batch, [batch], {})
            result = self._run(batch)
            outputs = {"loss": result.loss / parts if parts > 1 else result.loss, "logits": result.logits}
            self.call("on_after_forward", self.model, outputs, batch)
        return outputs

    # Validation

    def validate(self, loader: Loader, ckpt_path: Any = ..., scope: str = "validate_0") -> dict[str, float]:
        with ExitStack() as stack:
            stack.enter_context(self._telling("validate"))
            self._enter(Stage(scope, self._eval_steps(loader)))
            self._scope = scope
            stack.callback(setattr, self, "_scope", "")
            self.call("on_enter_validate", stack, loader, self.loop)
            self.checkpoints.load(self, ckpt_path)
            self.call("on_validate_start", self.model, loader, self.loop)
            self.model.eval()
            loader.restart()
            evaluation = Evaluation(metrics=self.eval_metrics)
            with torch.no_grad():
                for index, batch in zip(range(self.stage.batches), self._endless(loader), strict=False):
                    self._end_if_asked()
                    self._validate_batch(
                        {name: value.to(self.device) for name, value in batch.items()}, index, evaluation
                    )
            found = evaluation.results(self.processes.sums)
            self.log_metrics(**found)
            self.call("on_validate_end", self.model, self.loop)
        self.report.say(", ".join(f"{scope}/{tag} {value:.5f}" for tag, value in found.items()))
        return found

    def _validate_batch(self, batch: Batch, index: int, evaluation: Evaluation) -> None:
        last = index + 1 == self.stage.batches
        self._begin_batch(last or (bool(self.log_steps) and (index + 1) % self.log_steps == 0))
        self.call("on_validate_batch_start", self.model, batch, index)
        self.call("on_validate_step_start", self.model, batch)
        outputs = self._forward(batch)
        outputs["loss"] = self.processes.mean(outputs["loss"])
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            trained = self.train_dataloader is not None and self.global_step > self._start
            fix = advice(self.model, batch, begun=trained)
            raise NotFiniteError(self.global_step, loss, fix, f"validation loss in {self._scope}")
        evaluation.add(outputs["loss"], outputs["logits"], batch)
        self.stage.done += 1
        self.log_metrics(val_loss=loss)
        self.call("on_validate_step_end", self.model, outputs, batch)
        self.call("on_validate_batch_end", self.model, outputs, batch, index)
        if values := self._end_batch():
            self.report.line(self.global_step, index + 1, values)

    def validate_all(
        self, loaders: Sequence[Loader], ckpt_paths: Sequence[Any] = (None,)
    ) -> list[dict[str, Any]]:
        """Every checkpoint on every set. Returns what was found of each checkpoint, by set."""
        return self._validate_all(loaders, ckpt_paths, None, True)

    def _validate_all(
        self, loaders: Sequence[Loader], ckpt_paths: Sequence[Any], loop_idx: int | None, is_last: bool
    ) -> list[dict[str, Any]]:
        found = []
        with ExitStack() as stack:
            self.call("on_enter_validate_all", stack, loaders, self.loop, ckpt_paths)
            for path in ckpt_paths:
                self.checkpoints.load(self, path)
                scopes = {f"validate_{index}": loader for index, loader in enumerate(loaders)}
                metrics = {
                    scope: self.validate(loader, ckpt_path=None, scope=scope)
                    for scope, loader in scopes.items()
                }
                checkpoint = None if path is None else str(path)
                found.append({"checkpoint": checkpoint, "steps": self.global_step, "metrics": metrics})
                self.call("run_validation", loop_idx, is_last)
        return found

    def _eval_steps(self, loader: Loader) -> int:
        return self.loop.eval_steps or len(loader)

    # What is logged, and when

    @property
    def will_log(self) -> bool:
        """In a batch: what ``log_metrics`` gets is written when it is over."""
        return self._logs

    def log_metrics(self, **values: float) -> None:
        """In a batch, for the step that it makes, if that is a logged one; between batches at once."""
        if self._logged is None:
            self.report.scalars(values, self.global_step, self._scope)
        elif self._logs:
            self._logged |= values

    def _is_log_step(self, step: int) -> bool:
        done = step - self._first
        return done >= self._steps or (bool(self.log_steps) and done % self.log_steps == 0)

    def _begin_batch(self, logs: bool) -> None:
        self._logged, self._logs = {}, logs

    def _end_batch(self) -> dict[str, float]:
        values, self._logged = self._logged or {}, None
        if values:
            self.report.scalars(values, self.global_step, self._scope)
        return values

    @property
    def checkpoints_left(self) -> tuple[int, int]:
        """In this round of training, and in the rounds that come after it."""
        here = sum(index >= self.stage.done - 1 for index in self._save_at) if not self._scope else 0
        return here, max(0, self._saves_left - here)

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        if self.later and self.later[0].name == stage.name:
            del self.later[0]

    # Ends

    def _end_if_asked(self) -> None:
        """Save what is not saved yet, where the run trains, and end it."""
        if not self.processes.any(self.asked_to_stop()):
            return
        if self.train_dataloader is not None and self.checkpoints.step_on_disk != self.global_step:
            self.checkpoints.save(self)
        last = None if self.checkpoints.last is None else str(self.checkpoints.last)
        if self.train_dataloader is None:
            raise InterruptedRunError(self.global_step, last, "the same command begins this validation again")
        advice = how_to_continue(
            last,
            found_by_itself=self.checkpoints.autoloads,
            without=self.checkpoints.loads_a_part,
            begins_anew=None if self.loop.max_steps else "num_steps" if self.loop.num_steps else "num_epochs",
            left=self._first + self._steps // self.loop.grad_accum_steps - self.global_step,
        )
        raise InterruptedRunError(self.global_step, last, advice)

    def _endless(self, loader: Loader) -> Iterator[Batch]:
        """Epoch after epoch; a loader begins where its state says."""
        while True:
            yield from self.processes.batches(known_tokens(loader, self.vocabulary))

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (Exception, InterruptedRunError) as error:
            self._logged = None
            self.call(f"on_{what}_exception", error)
            raise
