"""The bars of the issue as data: each reads its figure out of the results, or says that there is none yet."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._report import Bar
from benchmarks.scoring.peers import PADDED_NAMES, VLLM_NAMES
from benchmarks.scoring.statistics import rate, ratio

Results = Mapping[str, Any]
Passes = Sequence[Mapping[str, float]]
OURS = "rewardmesh"


@dataclass(frozen=True)
class Wanted:
    """A bar.

    figure: the value, None when the results lack what it needs; detail: what it was made of, for the table.
    beyond: the second mark, None where there is none; most: whether the bar is the greatest value allowed.
    """

    name: str
    unit: str
    bar: float
    figure: Callable[[Results], float | None]
    beyond: float | None = None
    most: bool = False
    detail: Callable[[Results], str] = lambda results: ""

    def judge(self, results: Results) -> Bar | None:
        """Compare with the figure."""
        value = self.figure(results)
        if value is None:
            return None
        return (Bar.at_most if self.most else Bar.at_least)(self.name, value, self.unit, self.bar)


def race_passes(results: Results, model: str, workload: str) -> dict[str, Passes]:
    """Passes of each contender that took part and did not fail."""
    contenders = results.get("races", {}).get(model, {}).get(workload, {}).get("contenders", {})
    return {name: record["passes"] for name, record in contenders.items() if record["passes"] and not record["failed"]}


def best_of(passes: Mapping[str, Passes], names: Sequence[str]) -> str | None:
    """The fastest of the named contenders; None when none of them was measured."""
    there = [name for name in names if name in passes]
    return max(there, key=lambda name: rate(passes[name])) if there else None


def against(results: Results, model: str, workload: str, names: Sequence[str]) -> float | None:
    """Our rate over that of the best of the named contenders."""
    passes = race_passes(results, model, workload)
    other = best_of(passes, names)
    return ratio(passes[OURS], passes[other]) if other and OURS in passes else None


def _side_by_side(model: str, workload: str, names: Sequence[str]) -> Callable[[Results], str]:
    """Our rate and that of each named contender, in words."""

    def detail(results: Results) -> str:
        passes = race_passes(results, model, workload)
        return ", ".join(f"{name} {rate(passes[name]):.1f}" for name in (OURS, *names) if name in passes)

    return detail


def floor_share(results: Results, model: str, contender: str = OURS) -> float | None:
    """Median over rounds of the time that the needed FLOPs take at the measured matmul throughput over the time taken."""
    passes = race_passes(results, model, "A").get(contender)
    floor = results.get("floor", {}).get(model)
    throughput = results.get("floor", {}).get("matmul_flops_per_s")
    if not passes or not floor or not throughput:
        return None
    reached = statistics.median(floor["round_flops"][int(one["round"])] / one["seconds"] for one in passes)
    return float(reached / throughput)


def served_share(results: Results, model: str) -> float | None:
    """Our served rate over that of the bare engine loop."""
    passes = race_passes(results, model, "A")
    return ratio(passes[OURS], passes["bare"]) if OURS in passes and "bare" in passes else None


def overload_figure(results: Results, name: str) -> float | None:
    """Of the greatest load: goodput over the best of all loads ("goodput"), or a figure of its summary; None when it has none."""
    found = results.get("overload")
    if not found:
        return None
    last = max(found["loads"], key=lambda load: load["load"])
    if name == "goodput":
        peak = max(load["goodput_items_per_s"] for load in found["loads"])
        return float(last["goodput_items_per_s"] / peak) if peak else None
    value = last[name]
    return None if value is None else float(value)


def _at(*keys: str) -> Callable[[Results], float | None]:
    def figure(results: Results) -> float | None:
        found: Any = results
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    return figure


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _race(name: str, workload: str, names: Sequence[str], bar: float, beyond: float) -> Wanted:
    """A bar on how many times as fast as the best of the named contenders we are, 16M parameters."""
    detail = _side_by_side("16m", workload, names)
    return Wanted(name, "×", bar, lambda results: against(results, "16m", workload, names), beyond, detail=detail)


WANTED = (
    _race("A: against vLLM, better of its two settings", "A", VLLM_NAMES, 2.0, 2.5),
    _race("A: against the best of Triton, Ray Serve, LitServe, FastAPI", "A", PADDED_NAMES, 2.3, 3.0),
    _race("B: against vLLM", "B", VLLM_NAMES, 3.0, 4.0),
    _race("C: against vLLM", "C", VLLM_NAMES, 1.15, 1.3),
    Wanted("A: fraction of the floor", "", 0.70, lambda r: floor_share(r, "16m"), 0.80),
    Wanted("A: served ÷ bare engine loop", "", 0.95, lambda r: served_share(r, "16m"), 0.98, detail=_side_by_side("16m", "A", ("bare",))),
    Wanted("A: gateway on top of a direct call", "% more time", 5.0, lambda r: _times(_at("gateway", "more_time")(r), 100), 2.0, most=True),
    Wanted("trivial verifier through one stream", "items/s", 20_000, _at("verifier", "items_per_s"), 50_000),
    Wanted("D at 2×: goodput ÷ peak goodput", "", 0.90, lambda r: overload_figure(r, "goodput")),
    Wanted("D at 2×: accepted within the deadline", "%", 99.0, lambda r: _times(overload_figure(r, "accepted_in_time"), 100)),
    Wanted("D at 2×: refusals, 99th percentile", "ms", 50.0, lambda r: _times(overload_figure(r, "refusal_p99_s"), 1000), most=True),
    Wanted("8k tokens × 150k vocabulary: extra memory", "GiB", 1.0, _at("memory", "extra_gib"), most=True),
    Wanted("16 callers of one item: times computed", "", 1.0, _at("single_flight", "computed"), most=True),
    Wanted("one of three replicas dead: attempts a call", "×", 1.2, _at("replicas", "dead", "amplification"), most=True),
    Wanted("one of three replicas dead: calls that failed", "", 0.0, _at("replicas", "dead", "failed"), most=True),
    Wanted("one of three replicas frozen: attempts a call", "×", 1.2, _at("replicas", "frozen", "amplification"), most=True),
    Wanted("one of three replicas frozen: calls that failed", "", 0.0, _at("replicas", "frozen", "failed"), most=True),
)


def judged(results: Results) -> Iterator[tuple[Wanted, Bar | None]]:
    """Every bar with its verdict, None where nothing was measured."""
    for wanted in WANTED:
        yield wanted, wanted.judge(results)
