"""The YAML as cszoo would read it: keys, callbacks, models, optimizers, and ModelZoo's own schema."""

import re
from collections.abc import Iterator, Sequence

from cerebras_utils.checks.case import Case, section, written_callbacks
from cerebras_utils.checks.modelzoo import ask, schema_problems
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from cerebras_utils.checks.weights import FAMILIES
from cerebras_utils.cszoo_yaml import config_problems
from cerebras_utils.trainer_keys import DATALOADERS
from cerebras_utils.vendor_names import CALLBACKS, OURS
from pruning.problems import Problem
from pruning.registry import suggest

MODELS = (  # of ModelZoo 2.10's registry
    *("bert", "bert/classifier", "bert/extractive_summarization", "bert/token_classifier", "bloom", "btlm"),
    *("dino", "dit", "dpo", "dpr", "dpr/embedding_generation", "esm2", "esm2/classification", "falcon"),
    *("fc_mnist", "gemma2", "generic_image_encoders", "gpt-neox", "gpt2", "gpt3", "gpt_backbone", "gptj"),
    *("jais", "llama", "llava", "mistral", "mixtral", "multimodal_simple", "santacoder", "starcoder", "t5"),
    *("transformer", "vision_transformer"),
)
# The parts that this project builds itself tell of what cszoo has and they have not by this way out.
_ONLY_HERE = re.compile(r"--backend cszoo|with cszoo|is written by ModelZoo alone")


def for_cszoo(problems: Sequence[Problem]) -> list[Problem]:
    """Without those that stand in the way of the fallback alone."""
    return [problem for problem in problems if not _ONLY_HERE.search(f"{problem.what} {problem.fix}")]


@check("config", once=True)
def keys(case: Case) -> Iterator[Finding]:
    """Unknown keys and callbacks, values of another kind, `1e-5` that YAML 1.1 reads as text."""
    yield from for_cszoo(config_problems(case.phases))


@check("config", once=True)
def schema(case: Case) -> Iterator[Finding]:
    """What ModelZoo's own schema says, where ModelZoo is importable."""
    if not case.use_modelzoo:
        raise NotMade("ModelZoo's own schema was not asked: --no-modelzoo")
    yield from schema_problems(case.phase.document)


@check("config", once=True)
def registered(case: Case) -> Iterator[Finding]:
    """Callbacks of this project that a stock cszoo does not know: it would refuse the config."""
    if not case.use_modelzoo:
        raise NotMade("ModelZoo's own schema was not asked: --no-modelzoo")
    names = {own.lower(): own for own in OURS}
    used = {
        names[callback.name.lower()]: phase.where(callback.key)
        for phase in case.phases
        for callback in written_callbacks(phase.init)
        if callback.name.lower() in names
    }
    if not used:
        raise NotMade("the config names no callback of this project")
    known = ask(case.phase.document.path).known
    for name, where in used.items():
        if name not in known:
            what = f"a stock cszoo does not know {name}, and would refuse the config"
            fix = "start it with `wafersparse fit`, or run `wafersparse install-hook` in this environment"
            yield Doubt(where, what, fix)


@check("config")
def model(case: Case) -> Iterator[Finding]:
    """A model that ModelZoo does not know, or options that it does not have."""
    name = str(case.model.get("name"))
    if name in FAMILIES:
        from cerebras_utils.fallback.models.rules import model_problems

        yield from for_cszoo(model_problems(case.model, case.where("init.model")))
    elif name not in MODELS:
        what = f"{name!r} is no model of ModelZoo 2.10.{suggest(name, list(MODELS))}"
        yield Problem(case.where("init.model.name"), what, f"use one of {', '.join(MODELS)}")
    else:
        raise NotMade(
            f"the options of the model {name} are known to ModelZoo's schema only: see config.schema"
        )


@check("config")
def optimizer(case: Case) -> Iterator[Finding]:
    """No optimizer, an unknown one, or settings that it does not take."""
    from cerebras_utils.fallback.optim.build import optimizer_problems

    if "fit" not in case.phase.params:
        raise NotMade("the config does not train: it has no `fit:`")
    yield from for_cszoo(optimizer_problems(case.init.get("optimizer") or {}, case.where("init.optimizer")))


@check("config")
def schedulers(case: Case) -> Iterator[Finding]:
    """Unknown schedulers or settings, and two that set one learning rate."""
    from cerebras_utils.fallback.optim.build import scheduler_problems

    if case.init.get("schedulers") is None:
        raise NotMade("the config has no schedulers")
    yield from for_cszoo(scheduler_problems(case.init["schedulers"], case.where("init.schedulers")))


@check("config")
def stages(case: Case) -> Iterator[Finding]:
    """A trainer that neither trains nor validates."""
    if not any(True for _ in case.stages()):
        what = f"has none of {', '.join(DATALOADERS)}: nothing would run"
        yield Problem(case.where(), what, "write `fit:` with its train_dataloader below it")


@check("config")
def csx_flags(case: Case) -> Iterator[Finding]:
    """`csx.*` below `backend`, which ModelZoo passes over."""
    for key in section(case.init, "backend"):
        if str(key).startswith("csx."):
            what = "has no effect: ModelZoo reads such flags from callbacks"
            fix = f"write it under the callback GlobalFlags: `- GlobalFlags: {{{key}: ...}}`"
            yield Doubt(case.where(f"init.backend.{key}"), what, fix)


@check("config")
def dropped(case: Case) -> Iterator[Finding]:
    """This project's callbacks set to null, which cszoo drops without a word, or named twice."""
    ours = {own.lower(): own for own in OURS}
    written = case.init.get("callbacks")
    found: list[str] = []
    for index, entry in enumerate(written if isinstance(written, list) else ()):
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        ((name, arguments),) = entry.items()
        own, where = ours.get(str(name).lower()), case.where(f"init.callbacks[{index}].{name}")
        if own and arguments is None:
            yield Problem(where, "is null: cszoo drops it without a word", "write its arguments below it")
        if own in found:
            yield Problem(where, f"{own} is there already, and cszoo takes each once", "keep one of them")
        found += [own] if own else []


@check("config")
def autorestart(case: Case) -> Iterator[Finding]:
    """Callbacks that autorestart rejects, and settings that leave it nothing to restart from."""
    wanted = section(case.init, "autorestart")
    if not isinstance(restarts := wanted.get("max_num_restarts"), int) or restarts < 1:
        raise NotMade("autorestart is off")
    yield from restart_problems(case)
    devices, least = case.cluster.get("num_csx", 1), wanted.get("min_num_csx", 1)
    if type(devices) is int and type(least) is int and least > devices:
        what = f"is {least}, and the run has num_csx: {devices}"
        yield Problem(case.where("init.autorestart.min_num_csx"), what, f"set it to {devices} or less")
    if not section(case.init, "checkpoint").get("steps"):
        what = "restarts from step 0 each time: no checkpoints are saved on the way"
        yield Doubt(case.where("init.autorestart"), what, "set trainer.init.checkpoint.steps")
    modes = [section(phase.init, "autorestart").get("max_num_restarts") for phase in case.phases]
    if len({bool(mode) for mode in modes}) > 1:
        what = "is on in some trainers of the file and off in others, which cszoo refuses"
        yield Problem(case.where("init.autorestart"), what, "set it in all of them or in none")


def restart_problems(case: Case) -> Iterator[Problem]:
    """ModelZoo asks every callback for these two methods, and stops where one lacks."""
    from cerebras_utils.fallback import run

    methods = ("on_save_trainer_state", "on_load_trainer_state")
    ours = {name.lower(): kind for name, kind in run.OURS.items()}
    for callback in case.callbacks:
        if callback.name.lower() in CALLBACKS:
            continue  # all of ModelZoo 2.10's have them
        kind = ours.get(callback.name.lower())
        lacking = [name for name in methods if not callable(getattr(kind, name, None))]
        if lacking:
            what = f"autorestart rejects a callback without {' and '.join(lacking)}"
            fix = "give it these methods, empty if it has no state; or set max_num_restarts: 0"
            yield Problem(case.where(callback.key), what, fix)
