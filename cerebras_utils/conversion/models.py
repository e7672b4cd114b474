"""Which model a checkpoint is of: the config that it holds or that is given, in both forms."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.conversion.hf_config import to_config, to_section
from cerebras_utils.cszoo_yaml import load_config
from cerebras_utils.fallback.models.options import Options, options
from pruning.problems import fail


@dataclass(frozen=True)
class Model:
    section: Mapping[str, Any]  # ``model:`` of a cszoo YAML
    config: Mapping[str, Any]  # ``config.json``
    options: Options


def of_modelzoo(checkpoint: Path, given: Path | None, params: Mapping[str, Any] | None) -> Model:
    """From the YAML that is given, or from the config in the checkpoint itself."""
    if given is not None:
        phase = load_config(given)[0]
        section, where = phase.init.get("model") or {}, phase.where("init.model")
    else:
        init = ((params or {}).get("trainer") or {}).get("init") or {}
        section, where = init.get("model"), f"{checkpoint}: trainer.init.model"
        if section is None:
            what = "holds no config, and the number of heads is in no tensor"
            raise fail(checkpoint, what, "give the YAML of the model: --config CONFIG.yaml")
    return Model(section, to_config(section, where), options(section, where))


def of_huggingface(checkpoint: Path, given: Path | None) -> Model:
    """From ``config.json``, beside the weights where none is given."""
    path = given or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror}", "name it: --config config.json") from None
    except (ValueError, RecursionError) as error:
        raise fail(path, f"is not JSON: {error}", "use the config.json of the model") from None
    if not isinstance(config, dict):
        raise fail(path, "is not a JSON object", "use the config.json of the model")
    section = to_section(config, str(path))
    return Model(section, config, options(section, str(path)))
