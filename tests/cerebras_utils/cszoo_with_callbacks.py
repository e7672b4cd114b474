"""ModelZoo in one process, for tests of rewritten configs.

    python cszoo_with_callbacks.py run COMMANDS.json
    python cszoo_with_callbacks.py validate PAIRS.json OUT

COMMANDS are those of cszoo, with "REGISTER" where ours are to be registered. Of each pair of files,
``validate`` says what ModelZoo finds wrong with the second, and then with the first.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from cerebras_utils.register import register  # noqa: E402


def run(commands):
    from cerebras.modelzoo.cli.main import main

    for command in commands:
        if command == "REGISTER":
            register()
            continue
        sys.argv = ["cszoo", *command]
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                sys.exit(f"cszoo {' '.join(command)}: exit code {stop.code}")


def validate(pairs):
    """As they stand, most configs name data that is on no other machine: that is not asked here."""
    from types import SimpleNamespace

    from cerebras.modelzoo.config import types
    from cerebras.modelzoo.trainer.validate_configs import validate_config

    os_path = types.os.path
    types.os = SimpleNamespace(path=SimpleNamespace(dirname=os_path.dirname, exists=lambda path: True))
    register()
    said = []
    for base, rewritten in pairs:
        after = _said(validate_config, rewritten)
        said.append([_said(validate_config, base) if after else "", after])
    return said


def _said(validate_config, file):
    try:
        validate_config(file)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    if sys.argv[1] == "run":
        run(given)
    else:
        Path(sys.argv[3]).write_text(json.dumps(validate(given)))
