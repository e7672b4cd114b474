"""The data files against the model: sequence length, vocabulary, batches."""

from collections.abc import Iterator, Mapping

from cerebras_utils.checks.case import Case, exists, whole
from cerebras_utils.checks.config import for_cszoo
from cerebras_utils.checks.paths import _paths
from cerebras_utils.checks.registry import Finding, NotMade, check
from pruning.problems import Problem

_READ_HERE = ("GptHDF5MapDataProcessor", "GptHDF5DataProcessor")
_LENGTHS = ("vocab_size", "max_position_embeddings")


@check("data")
def processors(case: Case) -> Iterator[Finding]:
    """A data loader without a data processor, or with one that ModelZoo does not know."""
    from cerebras_utils.fallback.data.settings import FOREIGN_PROCESSORS, PROCESSOR
    from pruning.registry import suggest

    known = [PROCESSOR, *FOREIGN_PROCESSORS]
    for key, loader in case.loaders():
        name = loader.get("data_processor")
        if name is None:
            yield Problem(case.where(key), "has no data_processor", f"write `data_processor: {PROCESSOR}`")
        elif name not in known and suggest(str(name), known):
            what = f"there is no data processor {name!r}.{suggest(str(name), known)}"
            yield Problem(case.where(f"{key}.data_processor"), what, f"known: {', '.join(known)}")


@check("data")
def settings(case: Case) -> Iterator[Finding]:
    """Settings of a GPT data loader that it does not have, or of another kind."""
    from cerebras_utils.fallback.data.settings import read_settings

    for key, loader in _gpt(case):
        yield from _not_said(read_settings(_as_map(loader), case.where(key))[1], case, key, loader)


@check("data")
def files(case: Case) -> Iterator[Finding]:
    """Damaged files, sequences longer than the model's positions, tokens beyond its vocabulary."""
    from cerebras_utils.fallback.data.checks import data_problems

    looked = False
    for key, loader in _gpt(case):
        if not all(exists(path) for _, path in _paths(loader, key)):
            continue
        looked = True
        model = {name: case.model[name] for name in _LENGTHS if name in case.model}
        if case.model.get("position_embedding_type") is not None:
            model["position_embedding_type"] = case.model["position_embedding_type"]
        yield from _not_said(data_problems(_as_map(loader), model, case.where(key)), case, key, loader)
    if not looked:
        raise NotMade("the data are not there: see paths.exist")


def _gpt(case: Case) -> list[tuple[str, Mapping[str, object]]]:
    found = [(k, loader) for k, loader in case.loaders() if loader.get("data_processor") in _READ_HERE]
    if not found:
        raise NotMade(f"no data loader is one of {' and '.join(_READ_HERE)}, which are the ones known here")
    return found


def _not_said(
    problems: list[Problem], case: Case, key: str, loader: Mapping[str, object]
) -> Iterator[Problem]:
    """Without a batch size that is no number of sequences: loop.batch_size_form says it."""
    said = "batch_size" in loader and whole(loader["batch_size"]) is None
    for problem in for_cszoo(problems):
        if not (said and problem.where == case.where(f"{key}.batch_size")):
            yield problem


def _as_map(loader: Mapping[str, object]) -> dict[str, object]:
    """The two processors read the same files; the one that shuffles by buffers has settings of its own."""
    own = ("shuffle_buffer", "features_list") if loader["data_processor"] != _READ_HERE[0] else ()
    return {**{k: v for k, v in loader.items() if k not in own}, "data_processor": _READ_HERE[0]}
