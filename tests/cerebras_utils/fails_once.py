"""For tests of autorestart: the first process that reaches a step fails in it, the next does not."""

from pathlib import Path

from cerebras_utils.hooks import Hooks
from pruning.problems import fail


class FailsOnce(Hooks):
    def __init__(self, step: int, flag: str):
        self.step, self.flag = step, Path(flag)

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.flag.exists():
            self.flag.touch()
            raise fail(self.flag, "a system was lost", "none is needed")

    def on_save_trainer_state(self, trainer, state_dict):
        pass

    def on_load_trainer_state(self, trainer, state_dict):
        pass
