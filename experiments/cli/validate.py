"""``wafersparse validate``."""

from experiments.cli.fit import make_command

command = make_command("validate", "Validate as CONFIG says: a cszoo YAML, on cszoo or on plain PyTorch.")
