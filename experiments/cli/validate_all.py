"""``wafersparse validate_all``."""

from experiments.cli.fit import make_command

command = make_command(
    "validate_all",
    "Validate every checkpoint of `ckpt_paths`, or of the model directory, on every set of `validate_all:`.",
    example="configs/llama_1m.yaml --target_device CPU -o runs/llama_1m",
)
