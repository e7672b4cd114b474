"""The distributions that weights are drawn from: by their names in the YAML, and as ModelZoo draws them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cerebras_utils.fallback.models.kinds import Choice, Kind, Number, Table, shown
from pruning.problems import Problem
from pruning.registry import suggest

if TYPE_CHECKING:
    from torch import Tensor

_TRUNCATED_STD = 0.87962566103423978  # of a standard normal distribution cut at -2 and 2
_NUMBER = Number()
_KAIMING: dict[str, Kind] = {
    "a": _NUMBER,
    "mode": Choice(("fan_in", "fan_out")),
    "nonlinearity": Choice(("leaky_relu", "relu")),
}
_SCALING: dict[str, Kind] = {
    "scale": Number(above=0),
    "mode": Choice(("fan_in", "fan_out", "fan_avg")),
    "distribution": Choice(("truncated_normal", "normal", "uniform")),
}
_SETTINGS: dict[str, dict[str, Kind]] = {
    "constant": {"val": _NUMBER},
    "ones": {},
    "zeros": {},
    "eye": {},
    "uniform": {"a": _NUMBER, "b": _NUMBER},
    "normal": {"mean": _NUMBER, "std": Number(low=0)},
    "xavier_normal": {"gain": _NUMBER},
    "glorot_normal": {"gain": _NUMBER},
    "xavier_uniform": {"gain": _NUMBER},
    "glorot_uniform": {"gain": _NUMBER},
    "kaiming_normal": _KAIMING,
    "kaiming_uniform": _KAIMING,
    "truncated_normal": {"mean": _NUMBER, "std": Number(above=0), "a": _NUMBER, "b": _NUMBER},
    "variance_scaling": _SCALING,
    "lecun_normal": _SCALING,
    "lecun_uniform": _SCALING,
}


@dataclass(frozen=True)
class InitializerKind:
    """A name, or a mapping with a name and settings, of which those that are null count as not given."""

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        settings = {"name": value} if isinstance(value, str) else value
        if not isinstance(settings, Mapping):
            fix = "write a name, or a mapping with a name and its settings"
            yield Problem(where, f"{shown(value)} is not an initializer", fix)
            return
        name = settings.get("name")
        if not isinstance(name, str) or name not in _SETTINGS:
            hint = suggest(name, list(_SETTINGS)) if isinstance(name, str) else ""
            what = f"the initializer {shown(name)} is not known.{hint}"
            yield Problem(f"{where}.name", what, f"use one of: {', '.join(sorted(_SETTINGS))}")
            return
        rest = {key: entry for key, entry in settings.items() if key != "name" and entry is not None}
        required = ("val",) if name == "constant" else ()
        problems = list(Table(_SETTINGS[name], required).problems(where, rest))
        yield from problems
        if not problems and name in ("uniform", "truncated_normal"):
            low, high = (initializer(settings).settings[bound] for bound in ("a", "b"))
            if low >= high:
                yield Problem(
                    f"{where}.b", f"the bounds {low} and {high} leave nothing between them", "set a < b"
                )


@dataclass(frozen=True)
class Initializer:
    name: str
    settings: Mapping[str, Any]

    def __call__(self, tensor: "Tensor") -> None:
        """Fill a tensor in place, drawing from torch's generator exactly what ModelZoo would draw."""
        _FILL[self.name](tensor, **self.settings)

    @property
    def scales(self) -> bool:
        return self.name in ("normal", "truncated_normal")

    def scaled(self, factor: float) -> "Initializer":
        """The same distribution with another width; the mean stays."""
        assert self.scales, self.name
        if self.name == "normal":
            return replace(self, settings={**self.settings, "std": self.settings["std"] * factor})
        wide = {key: self.settings[key] * factor for key in ("std", "a", "b")}
        return replace(self, settings={**self.settings, **wide})


def initializer(spec: str | Mapping[str, Any]) -> Initializer:
    """From a checked value of the YAML."""
    given = {"name": spec} if isinstance(spec, str) else spec
    name = given["name"]
    settings = {key: value for key, value in given.items() if key != "name" and value is not None}
    if name in ("normal", "truncated_normal"):
        settings = {"mean": 0.0, "std": 0.05, **settings}
    if name == "uniform":
        settings = {"a": -0.05, "b": 0.05, **settings}
    if name == "truncated_normal":
        settings = {"a": -2 * settings["std"], "b": 2 * settings["std"], **settings}
    return Initializer(name, settings)


def _truncated_normal(
    tensor: "Tensor", *, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> None:
    """By the inverse of the distribution function: one uniform number for each weight.

    torch's own function did this up to the version that ModelZoo pins; later ones reject samples, and a seed
    gives other weights.
    """
    low, high = (math.erf((bound - mean) / std / math.sqrt(2.0)) for bound in (a, b))
    tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(min=a, max=b)


def _scaled_by_fan(
    tensor: "Tensor", *, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal"
) -> None:
    fan_out, fan_in = tensor.shape[0], tensor.shape[1]  # as Linear and Embedding lay them out
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = scale / max(1.0, fan)
    if distribution == "truncated_normal":
        _truncated_normal(tensor, std=math.sqrt(variance) / _TRUNCATED_STD)
    elif distribution == "normal":
        tensor.normal_(std=math.sqrt(variance))
    else:
        bound = math.sqrt(3 * variance)
        tensor.uniform_(-bound, bound)


def _lecun_uniform(tensor: "Tensor", **settings: Any) -> None:
    _scaled_by_fan(tensor, **{"distribution": "uniform", **settings})


def _init(name: str) -> Callable[..., Any]:
    """A function of torch's, found when it is needed: reading options does not load torch."""

    def fill(tensor: "Tensor", **settings: Any) -> None:
        from torch.nn import init

        getattr(init, name)(tensor, **settings)

    return fill


_FILL: dict[str, Callable[..., Any]] = {
    "constant": _init("constant_"),
    "ones": _init("ones_"),
    "zeros": _init("zeros_"),
    "eye": _init("eye_"),
    "uniform": _init("uniform_"),
    "normal": _init("normal_"),
    "xavier_normal": _init("xavier_normal_"),
    "glorot_normal": _init("xavier_normal_"),
    "xavier_uniform": _init("xavier_uniform_"),
    "glorot_uniform": _init("xavier_uniform_"),
    "kaiming_normal": _init("kaiming_normal_"),
    "kaiming_uniform": _init("kaiming_uniform_"),
    "truncated_normal": _truncated_normal,
    "variance_scaling": _scaled_by_fan,
    "lecun_normal": _scaled_by_fan,
    "lecun_uniform": _lecun_uniform,
}
