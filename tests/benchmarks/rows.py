"""From samples to the rows of the report. Every verdict is computed here."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cases import CONTESTANTS, ITEMSIZE, LEVELS, OF_DTYPE, Masks, Samples, Settings
from measure import NoiseError, Run, Spread, per_second, ratio, slope

READS = {"bf16": 2, "fp32": 2}  # to count digits, where the guess for fp32 is right, and to pack
NAMES = {
    "global": "exact global 50 % masks",
    "uniform": "uniform 50 % masks",
    "random": "global 50 % masks of random scores",
    "2:4": "2:4 masks",
    "ten": f"{len(LEVELS)} levels at once",
    "prune": "`torch.nn.utils.prune.global_unstructured`",
    "kthvalue": "`torch.kthvalue` and a comparison (not exact)",
    "topk": "the vendor's `make_mask_topk_sparsity`",
}
NOISE = "lost in the noise: the large run was no slower than the small one"


@dataclass(frozen=True)
class Asked:
    """A bound on the ratio, or where there is none on the measured value."""

    relation: str  # at most, at least, within (a fraction of 1)
    bound: float
    unit: str = ""
    aim: float | None = None
    worst: bool = False  # no run may break it; else the median counts

    def text(self) -> str:
        if self.relation == "within":
            return f"within {self.bound * 100:g} %"
        aim = "" if self.aim is None else f" (aim: {self.aim:g})"
        return f"{self.relation} {self.bound:g}{self.unit}{aim}"

    def holds(self, spread: Spread, bound: float) -> bool:
        values = spread.values if self.worst else (spread.median,)
        if self.relation == "within":
            return all(abs(value - 1) <= bound for value in values)
        return max(values) <= bound if self.relation == "at most" else min(values) >= bound


@dataclass(frozen=True, kw_only=True)
class Row:
    what: str
    measured: Spread | None = None
    format: str = "{:.2f}"
    unit: str = ""
    ratio: Spread | None = None
    than: str = ""  # what the ratio is taken with
    asked: Asked | None = None
    why: str = ""  # nothing was measured

    @property
    def judged(self) -> Spread | None:
        return self.measured if self.ratio is None else self.ratio

    @property
    def verdict(self) -> str:
        if self.asked is None:
            return "–"
        if self.judged is None:
            return "not measured"
        if not self.asked.holds(self.judged, self.asked.bound):
            return "**not met**"
        if self.asked.aim is None:
            return "met"
        return "met, aim too" if self.asked.holds(self.judged, self.asked.aim) else "met, aim not"

    @property
    def fails(self) -> bool:
        return self.verdict in ("**not met**", "not measured")

    def cells(self) -> tuple[str, ...]:
        measured = f"{self.measured.text(self.format)} {self.unit}" if self.measured else self.why
        ratio = f"{self.ratio.text()} {self.than}" if self.ratio else "–"
        return self.what, measured, ratio, self.asked.text() if self.asked else "–", self.verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "measured": self.measured.values if self.measured else None,
            "unit": self.unit,
            "ratio": self.ratio.values if self.ratio else None,
            "than": self.than,
            "why": self.why,
            "asked": self.asked.text() if self.asked else None,
            "verdict": self.verdict.strip("*"),
        }


def sections(samples: Samples, settings: Settings) -> dict[str, list[Row]]:
    rows = Rows(samples, settings)
    return {
        "Cost per byte": [*rows.costs("bf16"), *rows.costs("fp32")],
        "Weights per second": [*rows.others("bf16"), *rows.others("fp32"), *rows.n_of_m()],
        "Several levels": [*rows.levels()],
        "Cerebras .mdl": [*rows.mdl()],
        "Start": [rows.start()],
        "Peak memory": [*rows.memory()],
    }


class Rows:
    def __init__(self, samples: Samples, settings: Settings) -> None:
        self._samples, self._settings = samples, settings
        self._large, self._small = (f"{gb:g} GB" for gb in (settings.gigabytes, settings.small))

    def costs(self, dtype: str) -> Iterator[Row]:
        """Cat, the limit it sets, and every case with the cat that ran beside it."""
        reads = READS[dtype]
        asked = Asked("at most", 5, " ×", aim=3) if dtype == "bf16" else Asked("at most", 7, " ×")
        for case in OF_DTYPE[dtype]:
            name = f"{NAMES[case]}, {dtype}"
            try:
                cat = self._per_gigabyte(self._samples.cat, case, dtype)
                cost = self._per_gigabyte(self._samples.masks, case, dtype)
            except NoiseError:
                if case == "global":
                    yield Row(what=f"`cat`, {dtype}", why=NOISE)
                    yield Row(what=f"{reads} reads at the rate of `cat`, {dtype}", why=NOISE)
                yield Row(what=name, why=NOISE, asked=asked if case == "global" else None)
                continue
            if case == "global":
                yield Row(what=f"`cat`, {dtype}", measured=cat, format="{:.3f}", unit="s/GB")
                limit = Spread.of(reads * value for value in cat.values)
                yield Row(
                    what=f"{reads} reads at the rate of `cat`, {dtype}: what one reader cannot go below",
                    measured=limit,
                    format="{:.3f}",
                    unit="s/GB",
                    ratio=ratio(limit, cat),
                    than="× `cat`",
                )
            yield Row(
                what=name,
                measured=cost,
                format="{:.3f}",
                unit="s/GB",
                ratio=ratio(cost, cat),
                than="× `cat`",
                asked=asked if case == "global" else None,
            )

    def others(self, dtype: str) -> Iterator[Row]:
        """Ours is the whole command, mask files included; theirs the call alone, weights in memory."""
        ours = self._rate("global", dtype)
        name = f"{NAMES['global']}, {dtype}"
        yield self._rate_row(f"{name}, {self._large} − {self._small}", ours)
        yield self._rate_row(f"{name}, whole command on {self._large}", self._whole_rate("global", dtype))
        for other in CONTESTANTS:
            results = self._samples.others[other, dtype]
            asked = Asked("at least", 100, " ×") if other == "prune" else None
            if "missing" in results[0]:
                yield Row(what=f"{NAMES[other]}, {dtype}", why="not installed", asked=asked)
                continue
            what = f"{NAMES[other]}, {dtype}, {results[0]['weights'] / 1e6:.3g} M weights"
            theirs = Spread.of(each["weights"] / each["seconds"] / 1e6 for each in results)
            yield Row(
                what=what,
                measured=theirs,
                unit="M/s",
                ratio=ratio(ours, theirs) if ours else None,
                than="× by ours",
                asked=asked,
            )

    def n_of_m(self) -> Iterator[Row]:
        asked = Asked("at least", 400, " M/s")
        name = f"{NAMES['2:4']}, bf16"
        yield self._rate_row(f"{name}, {self._large} − {self._small}", self._rate("2:4", "bf16"), asked)
        yield self._rate_row(
            f"{name}, whole command on {self._large}", self._whole_rate("2:4", "bf16"), asked
        )

    def levels(self) -> Iterator[Row]:
        for size, label in (("large", self._large), ("small", self._small)):
            one, ten = (self._seconds(self._masks(case, "bf16", size)) for case in ("global", "ten"))
            yield Row(what=f"one level, bf16, {label}, whole command", measured=one, unit="s")
            yield Row(
                what=f"{NAMES['ten']}, bf16, {label}, whole command",
                measured=ten,
                unit="s",
                ratio=ratio(ten, one),
                than="× one level",
                asked=Asked("at most", 3, " ×", aim=2) if size == "large" else None,
            )
        for levels, case in ((1, "global"), (len(LEVELS), "ten")):
            items = self._masks(case, "bf16", "large")
            write, whole = Spread.of(self._samples.writes[levels]), self._seconds(items)
            share = ratio(write, whole)
            nbytes = (
                f"{items[0].written / 1e9:.2g} GB, as the mask files of {levels} level{'s' * (levels > 1)}"
            )
            yield Row(
                what=f"the disk alone: plain write and fsync of {nbytes}",
                measured=write,
                unit="s",
                ratio=share,
                than="× that command",
            )

    def mdl(self) -> Iterator[Row]:
        large, small = (self._masks("global", "mdl", size) for size in ("large", "small"))
        gigabytes = large[0].weights * ITEMSIZE["bf16"] / 1e9
        more = gigabytes - small[0].weights * ITEMSIZE["bf16"] / 1e9
        plain = Spread.of(
            each["seconds"] / each["bytes"] * 1e9 for each in self._samples.others["h5py", "mdl"]
        )
        what = f"bf16 weights, {gigabytes:.2g} GB, HDF5 with LZ4"
        yield Row(what=f"h5py reads every tensor once, {what}", measured=plain, unit="s/GB")
        name = f"{NAMES['global']}, {what}"
        try:
            cost = slope(self._seconds(large).values, self._seconds(small).values, more)
        except NoiseError:
            yield Row(what=name, why=NOISE)
            return
        yield Row(what=name, measured=cost, unit="s/GB", ratio=ratio(cost, plain), than="× h5py")

    def start(self) -> Row:
        items = self._masks("global", "bf16", "tiny")
        return Row(
            what=f"whole command on {self._samples.nbytes['bf16', 'tiny'] / 1e3:.0f} kB, "
            "an upper bound of its start",
            measured=self._seconds(items),
            unit="s",
            asked=Asked("at most", 1.5, " s"),
        )

    def memory(self) -> Iterator[Row]:
        for dtype, cases in OF_DTYPE.items():
            for case in cases:
                large, small = (
                    Spread.of(item.run.peak / 1e6 for item in self._masks(case, dtype, size))
                    for size in ("large", "small")
                )
                yield Row(
                    what=f"{NAMES[case]}, {dtype}, {self._large}",
                    measured=large,
                    format="{:.0f}",
                    unit="MB",
                    asked=Asked("at most", 700, " MB", worst=True),
                )
                yield Row(
                    what=f"{NAMES[case]}, {dtype}, {self._small}",
                    measured=small,
                    format="{:.0f}",
                    unit="MB",
                    ratio=ratio(large, small),
                    than=f"× for {self._large}",
                    asked=Asked("within", 0.1, worst=True),
                )
        peaks = Spread.of(item.run.peak / 1e6 for item in self._masks("global", "mdl", "large"))
        yield Row(what=f"{NAMES['global']}, bf16, .mdl", measured=peaks, format="{:.0f}", unit="MB")

    def _masks(self, case: str, dtype: str, size: str) -> list[Masks]:
        return self._samples.masks[case, dtype, size]

    @staticmethod
    def _seconds(items: Iterable[Masks | Run]) -> Spread:
        return Spread.of(item.run.seconds if isinstance(item, Masks) else item.seconds for item in items)

    def _per_gigabyte(self, table: Any, case: str, dtype: str) -> Spread:
        large, small = (self._seconds(table[case, dtype, size]).values for size in ("large", "small"))
        nbytes = self._samples.nbytes
        return slope(large, small, (nbytes[dtype, "large"] - nbytes[dtype, "small"]) / 1e9)

    def _rate(self, case: str, dtype: str) -> Spread | None:
        """Million weights per second, by the difference of two sizes."""
        large, small = (self._masks(case, dtype, size) for size in ("large", "small"))
        more = (large[0].weights - small[0].weights) / 1e6
        try:
            return per_second(slope(self._seconds(large).values, self._seconds(small).values, more))
        except NoiseError:
            return None

    def _whole_rate(self, case: str, dtype: str) -> Spread:
        items = self._masks(case, dtype, "large")
        return Spread.of(item.weights / 1e6 / item.run.seconds for item in items)

    @staticmethod
    def _rate_row(what: str, rate: Spread | None, asked: Asked | None = None) -> Row:
        if rate is None:
            return Row(what=what, why=NOISE, asked=asked)
        return Row(what=what, measured=rate, format="{:.0f}", unit="M/s", asked=asked)


def check_finite(rows: Iterable[Row]) -> None:
    for row in rows:
        for spread in (row.measured, row.ratio):
            assert spread is None or all(map(math.isfinite, spread.values)), row
