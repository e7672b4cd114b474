"""From headers alone: which tensors compete with which, and exactly how many units each pool drops.

Everything that can be wrong before a weight is read is found here, all of it at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from pruning.checkpoint.source import TensorInfo, TensorSource
from pruning.importance import beyond_weights
from pruning.planning.allocation import ALLOCATIONS, Layer, Pool
from pruning.planning.amount import drop_count
from pruning.planning.patterns import (
    Cell,
    Grid,
    Head,
    NOfM,
    Pattern,
    PatternError,
    attention_role,
    head_cells,
    parse_pattern,
)
from pruning.planning.selection import Selection, select, unmatched
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError


@dataclass(frozen=True)
class Plan:
    """One or more levels of the same question: specs that differ in nothing but the sparsity."""

    specs: tuple[MaskSpec, ...]
    pattern: Pattern
    selection: Selection
    members: dict[str, tuple[TensorInfo, ...]]  # competitor → its tensors: one, or a head's projections
    cells: dict[str, Cell]  # tensor → its units, where they are cells of a grid
    pools: tuple[tuple[Pool, ...], ...]  # [level][pool]; the same layers at every level; none for N:M

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor that gets a mask, tied ones included, sorted by name."""
        chosen = {info.name: info for info in self.selection.chosen}
        for name, others in self.selection.aliases.items():
            chosen |= {other: TensorInfo(other, chosen[name].shape, chosen[name].dtype) for other in others}
        return tuple(chosen[name] for name in sorted(chosen))


def make_plan(source: TensorSource, specs: Sequence[MaskSpec]) -> Plan:
    """Raises ProblemError with everything that is wrong."""
    first = specs[0]
    assert all(replace_level(spec, None) == replace_level(first, None) for spec in specs), (
        "levels of one question"
    )
    pattern = parse_pattern(first.pattern)
    selection, problems = select(source, first.include, first.exclude)
    if source.kind != "memory" and (absent := beyond_weights(first.score)):
        what = f"score {first.score!r} needs {', '.join(absent)}, which a checkpoint does not hold"
        fix = "choose a score that needs the weight alone"
        if absent == ("grad",):
            fix += ", or compute it in Python after loss.backward(): pruning.mask_generator."
            fix += f"MaskGenerator(model, sparsity, importance_metric={first.score!r}).generate_masks()"
        problems.append(Problem(source.where, what, fix))
    chosen = selection.chosen
    if isinstance(pattern, Head):
        selection, problems = _attention_only(source, selection, problems)
        chosen = selection.chosen
    layers: list[Layer] = []
    members: dict[str, tuple[TensorInfo, ...]] = {}
    cells: dict[str, Cell] = {}
    for name, infos in _competitors(pattern, chosen).items():
        try:
            if isinstance(pattern, Head):
                cells |= head_cells(pattern, infos)
                units = pattern.heads
            else:
                units = pattern.units(infos[0])
                if isinstance(pattern, Grid):
                    cells[name] = pattern.cell(infos[0])
        except PatternError as error:
            problems.append(Problem(f"{source.where}: {name}", *error.args))
            continue
        layers.append(Layer(name, infos[0].shape, units))
        members[name] = infos
    pools: list[tuple[Pool, ...]] = []
    if not isinstance(pattern, NOfM):
        problems += _layer_map_problems(source, first, layers)
        if not problems:
            pools = [_pools(spec, layers) for spec in specs]
            for spec, level in zip(specs, pools, strict=True):
                problems += [_all_dropped(source, spec, pool) for pool in level if pool.drop >= pool.units]
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return Plan(tuple(specs), pattern, selection, members, cells, tuple(pools))


def replace_level(spec: MaskSpec, sparsity: Decimal | None) -> dict[str, object]:
    """The spec without its sparsity: equal for levels that can share their reads."""
    return spec.to_json() | {"sparsity": sparsity}


def _competitors(pattern: Pattern, chosen: Sequence[TensorInfo]) -> dict[str, tuple[TensorInfo, ...]]:
    if not isinstance(pattern, Head):
        return {info.name: (info,) for info in chosen}
    modules: dict[str, tuple[TensorInfo, ...]] = {}
    for info in chosen:
        module = info.name.rsplit(".", 2)[0]
        modules[module] = (*modules.get(module, ()), info)
    return modules


def _attention_only(
    source: TensorSource, selection: Selection, problems: list[Problem]
) -> tuple[Selection, list[Problem]]:
    attention = tuple(info for info in selection.chosen if attention_role(info.name))
    others = {
        info.name: "no attention projection" for info in selection.chosen if not attention_role(info.name)
    }
    if selection.chosen and not attention:
        problems = [
            *problems,
            Problem(
                source.where,
                "pattern head finds no attention projections (q_proj, proj_q_dense_layer, ...)",
                "use pattern row or block, or include tensors with separate q, k, v and output projections",
            ),
        ]
    aliases = {name: names for name, names in selection.aliases.items() if attention_role(name)}
    return Selection(attention, dict(selection.left_out) | others, aliases, selection.tied), problems


def _pools(spec: MaskSpec, layers: Sequence[Layer]) -> tuple[Pool, ...]:
    """Layers that the map names are pools of their own; the rest follow the allocation."""
    own, rest = [], []
    for layer in layers:
        value = next((value for glob, value in spec.layers if fnmatchcase(layer.name, glob)), None)
        if value is None:
            rest.append(layer)
        else:
            own.append(Pool((layer,), drop_count(value, layer.units)))
    shared = [] if spec.sparsity is None else ALLOCATIONS[spec.allocation](rest, spec.sparsity)
    return tuple(sorted([*own, *shared], key=lambda pool: pool.layers[0].name))


def _layer_map_problems(source: TensorSource, spec: MaskSpec, layers: Sequence[Layer]) -> list[Problem]:
    names = [layer.name for layer in layers]
    problems, left = [], set(names)
    for glob, _ in spec.layers:
        matched = [name for name in names if fnmatchcase(name, glob)]
        if not matched:
            problems.append(unmatched(source.where, f"--layer {glob}", glob, names))
        elif not left & set(matched):
            problems.append(
                Problem(
                    source.where,
                    f"--layer {glob} has no effect: earlier globs take every layer that it matches",
                    "put the narrower glob first",
                )
            )
        left -= set(matched)
    if spec.sparsity is None and left:
        problems.append(
            Problem(
                source.where,
                f"no sparsity is given for {len(left)} layers that no --layer matches, such as {min(left)}",
                "add --sparsity for the rest, a last --layer '*=S', or --exclude them",
            )
        )
    return problems


def _all_dropped(source: TensorSource, spec: MaskSpec, pool: Pool) -> Problem:
    where = pool.layers[0].name if len(pool.layers) == 1 else f"{len(pool.layers)} layers together"
    return Problem(
        f"{source.where}: {where}",
        f"sparsity {spec.sparsity if spec.sparsity is not None else 'of the layer map'} drops all "
        f"{pool.units} of its units; a mask that keeps nothing is refused by the CS-3 as well",
        f"--exclude '{pool.layers[0].name}', or ask for less",
    )
