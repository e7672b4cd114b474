"""The training loop of ModelZoo's trainer on plain PyTorch: the same steps and hooks in the same order.

What a run needs is handed in; nothing here reads a config. A callback sees the attributes that
ModelZoo's trainer has: ``model``, ``optimizer``, ``schedulers``, ``callbacks``, ``global_step``.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from cerebras_utils.fallback.metrics import Evaluation
from cerebras_utils.fallback.schedule import Loop, is_checkpoint_step, rounds, total_steps
from cerebras_utils.hooks import Hooks
from pruning.problems import fail

Batch = dict[str, torch.Tensor]


class Loader(Protocol):
    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...
    def rewind(self) -> None: ...
    def restart(self) -> None: ...


class Report(Protocol):
    """Where a run says what happens: a terminal, event files, a log."""

    def scalars(self, values: dict[str, float], step: int) -> None: ...
    def progress(self, step: int, steps: int, loss: float, tokens: int) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(kw_only=True)
class Precision:
    """``trainer.init.precision``: bf16 autocast or none, and gradient clipping."""

    enabled: bool = False
    max_gradient_norm: float | None = None
    max_gradient_value: float | None = None

    def autocast(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16) if self.enabled else nullcontext()

    def clip(self, optimizer: torch.optim.Optimizer) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        if self.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(weights, self.max_gradient_norm)
        elif self.max_gradient_value is not None:
            nn.utils.clip_grad_value_(weights, self.max_gradient_value)


class NotFiniteError(RuntimeError):
    """The loss is NaN or infinite. Nothing was saved after the last good checkpoint."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss of step {step} is {loss}")
        self.step = step


@dataclass(kw_only=True)
class Trainer:
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    schedulers: Sequence[Any]
    loop: Loop
    precision: Precision
    report: Report
    checkpoints: Any  # see cerebras_utils.fallback.checkpoints
    device: torch.device
    log_steps: int = 1
    checkpoint_steps: int | None = None
    callbacks: "OrderedDict[str, Hooks]" = field(default_factory=OrderedDict)
    global_step: int = 0
    _rates: dict[str, float] = field(default_factory=dict)  # that the latest optimizer step used
    train_dataloader: Any = None  # while fitting: its position is part of a checkpoint

    def __post_init__(self) -> None:
        self.model.to(self.device)
        for hook in ("pre_setup", "setup", "post_setup"):
            self.call(hook)

    def call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks.values():
            getattr(callback, hook)(self, *arguments)

    def fit(self, train: Loader, validation: Sequence[Loader] = (), ckpt_path: Any = ...) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._telling("fit"))
            self.call("on_enter_fit", stack, train, validation, self.loop)
            self.train_dataloader = train
            stack.callback(setattr, self, "train_dataloader", None)
            self.checkpoints.load(self, ckpt_path)
            steps = total_steps(self.loop, len(train), self.global_step)
            if steps == 0:
                raise fail(
                    "trainer.init.loop",
                    f"nothing is left to do: step {self.global_step} is reached already",
                    "raise max_steps, or start in another model_dir",
                )
            self.call("on_fit_start", train, validation, self.loop)
            first, last = self.global_step, self.global_step + steps
            parts = rounds(steps, self.loop.eval_frequency, bool(validation))
            for index, part in enumerate(parts):
                if index:
                    train.rewind()  # as ModelZoo on a CPU, which begins every round with the same batches
                self._train_round(train, self._endless(train), part, index, first, last)
                if validation and self.loop.eval_frequency:
                    for loader in validation:
                        self.validate(loader, ckpt_path=None, scope=f"validate_{validation.index(loader)}")
                    self.call("run_validation", index, index == len(parts) - 1)
            self.call("on_fit_end", self.loop)

    def _train_round(
        self, train: Loader, batches: Iterator[Batch], steps: int, index: int, first: int, last: int
    ) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._telling("train"))
            self.call("on_enter_train", stack, train, self.loop, index)
            self.call("on_train_start", self.model, train, self.loop, index)
            self.model.train()
            accumulate = self.loop.grad_accum_steps
            for batch_index in range(steps * accumulate):
                batch = {name: value.to(self.device) for name, value in next(batches).items()}
                self.call("on_train_batch_start", self.model, batch, batch_index)
                stepping = (batch_index + 1) % accumulate == 0
                loss = self._training_step(batch, stepping)
                if stepping:
                    self.global_step += 1
                    self._log_step(loss, batch, first, last)
                self.call("on_train_batch_end", self.model, {"loss": loss}, batch, batch_index)
                if stepping and is_checkpoint_step(self.global_step, self.checkpoint_steps, first, last):
                    self.checkpoints.save(self)
            self.call("on_train_end", self.model, self.loop, index)

    def _training_step(self, batch: Batch, stepping: bool) -> torch.Tensor:
        self.call("on_train_step_start", self.model, batch)
        outputs = self._forward(batch)
        if self.loop.grad_accum_steps > 1:
            outputs["loss"] = outputs["loss"] / self.loop.grad_accum_steps
        self.call("on_before_backward", self.model, outputs)
        torch.autograd.backward(outputs["loss"])
        self.call("on_after_backward", self.model, outputs)
        loss: torch.Tensor = outputs["loss"].detach()
        if not math.isfinite(loss.item()):
            raise NotFiniteError(self.global_step + 1, loss.item())
        if self.optimizer is not None and stepping:
            self._rates = {f"lr/{i}": float(g["lr"]) for i, g in enumerate(self.optimizer.param_groups)}
            self._optimizer_step(self.optimizer)
        self.call("on_train_step_end", self.model, outputs, batch)
        return loss

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

    def _forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        with self.precision.autocast(self.device):
            self.call("on_before_forward", self.model, batch, [batch], {})
            result = self.model(batch)
            outputs = {"loss": result.loss, "logits": result.logits}
            self.call("on_after_forward", self.model, outputs, batch)
        return outputs

    def validate(self, loader: Loader, ckpt_path: Any = ..., scope: str = "validate_0") -> dict[str, float]:
        with ExitStack() as stack:
            stack.enter_context(self._telling("validate"))
            self.call("on_enter_validate", stack, loader, self.loop)
            if ckpt_path is not None:
                self.checkpoints.load(self, ckpt_path)
            self.call("on_validate_start", self.model, loader, self.loop)
            self.model.eval()
            loader.restart()
            evaluation = Evaluation()
            steps = min(self.loop.eval_steps or len(loader), len(loader))
            with torch.no_grad():
                for index, batch in zip(range(steps), loader, strict=False):
                    batch = {name: value.to(self.device) for name, value in batch.items()}
                    self.call("on_validate_batch_start", self.model, batch, index)
                    self.call("on_validate_step_start", self.model, batch)
                    outputs = self._forward(batch)
                    evaluation.add(outputs["loss"], outputs["logits"], batch)
                    self.call("on_validate_step_end", self.model, outputs, batch)
                    self.call("on_validate_batch_end", self.model, outputs, batch, index)
            self.call("on_validate_end", self.model, self.loop)
        found = evaluation.results()
        self.report.scalars({f"{scope}/{tag}": value for tag, value in found.items()}, self.global_step)
        return found

    def validate_all(self, loaders: Sequence[Loader], ckpt_paths: Sequence[Any] = (...,)) -> None:
        with ExitStack() as stack:
            self.call("on_enter_validate_all", stack, loaders, self.loop, ckpt_paths)
            for path in ckpt_paths:
                self.checkpoints.load(self, path)
                for index, loader in enumerate(loaders):
                    self.validate(loader, ckpt_path=None, scope=f"validate_{index}")
                self.call("run_validation", None, True)

    def _log_step(self, loss: torch.Tensor, batch: Batch, first: int, last: int) -> None:
        done = self.global_step - first
        value = loss.item() * self.loop.grad_accum_steps
        self.report.progress(self.global_step, last, value, batch["input_ids"].numel())
        if self.is_log_step(done, last):
            self.report.scalars({"loss": value, **self._rates}, self.global_step)

    def is_log_step(self, done: int, last: int) -> bool:
        return bool(self.log_steps) and (done % self.log_steps == 0 or self.global_step == last)

    def _endless(self, loader: Loader) -> Iterator[Batch]:
        """Epoch after epoch; a loader begins where its state says."""
        while True:
            yield from loader

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.call(f"on_{what}_exception", error)
            raise
