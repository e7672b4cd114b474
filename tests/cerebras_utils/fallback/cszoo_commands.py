"""Commands of cszoo in one process, which pays for the start of ModelZoo once.

    python cszoo_commands.py COMMANDS.json

The file is a list of commands, each the list of words that follow ``cszoo``. The first that fails
ends it. A config may name the callback below, which knows nothing of this project but a file of masks.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch  # noqa: E402
from cerebras.modelzoo.cli.main import main  # noqa: E402
from cerebras.modelzoo.trainer.callbacks import Callback  # noqa: E402


class ByHand(Callback):
    """Masked training in four lines, and the logits of every validation batch for a look at them."""

    def __init__(self, masks: str, logits: str):
        self.masks, self.logits, self.seen = torch.load(masks, weights_only=True), logits, []

    def on_fit_start(self, trainer, train_dataloader, val_dataloader, loop):
        self.mask(trainer.model, trainer.optimizer)

    def on_before_optimizer_step(self, trainer, model, optimizer):
        for name, parameter in model.named_parameters():
            if name in self.masks:
                parameter.grad *= self.masks[name]

    def on_after_optimizer_step(self, trainer, model, optimizer):
        self.mask(model, optimizer)

    def mask(self, model, optimizer):
        for name, parameter in model.named_parameters():
            if name in self.masks:
                parameter.data *= self.masks[name]
                for state in optimizer.state[parameter].values():
                    if torch.is_tensor(state) and state.shape == parameter.shape:
                        state *= self.masks[name]

    def preprocess_checkpoint(self, trainer, state_dict):
        """ModelZoo loads strictly; the masks that a checkpoint of ours carries are not its model's."""
        for name in self.masks:
            state_dict["model"].pop(f"{name}_mask", None)

    def on_validate_start(self, trainer, model, val_dataloader, loop):
        self.seen = []

    def on_validate_step_end(self, trainer, model, outputs, batch):
        self.seen.append(model.model(input_ids=batch["input_ids"]).detach().clone())

    def on_validate_end(self, trainer, model, loop):
        torch.save(self.seen, self.logits)


if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["cszoo", *command]
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                sys.exit(f"cszoo {' '.join(command)}: exit code {stop.code}")
