"""The scoring benchmark's arithmetic: medians and ratios of rounds, percentiles, needed work, bars, results that are kept and merged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from benchmarks._items import Shape
from benchmarks._report import Bar
from benchmarks.scoring.bars import WANTED, against, best_of, floor_share, judged, overload_figure, race_passes, served_share
from benchmarks.scoring.command import read_arguments
from benchmarks.scoring.contender import ContenderError, MissingEnvironmentError, interpreter
from benchmarks.scoring.race import difference, takes_part
from benchmarks.scoring.reference import needed_work, spread_over
from benchmarks.scoring.report import write_report
from benchmarks.scoring.statistics import percentile, rate, ratio, spread
from benchmarks.scoring.store import Store


def passes(*rates: float) -> list[dict[str, float]]:
    return [{"round": number, "items": 10 * one, "seconds": 10.0} for number, one in enumerate(rates)]


def contender(*rates: float, failed: str | None = None) -> dict[str, Any]:
    return {"title": "someone", "variant": {}, "passes": passes(*rates), "difference": 1e-6, "failed": failed}


def results(**contenders: dict[str, Any]) -> dict[str, Any]:
    race = {"title": "questions", "source": "text", "tokens_read": 10, "tokens_computed": 5, "contenders": contenders}
    return {"races": {"16m": {"A": race}}}


def test_rates_are_medians_and_ratios_compare_round_by_round() -> None:
    assert rate(passes(1, 5, 2)) == 2
    assert spread(passes(1, 5, 2)) == (1, 5)
    # Rounds differ in how hard they are: the median of ratios is 2, that of the rates would be 20 / 8.
    assert ratio(passes(2, 20, 40), passes(1, 10, 8)) == 2
    assert ratio(passes(2, 20, 40), passes(1)) == 2
    with pytest.raises(ValueError, match="no round in common"):
        ratio(passes(1), [])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 5), (0.99, 10), (1.0, 10)])
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert percentile([float(value) for value in range(10, 0, -1)], share) == expected


def test_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_needed_work_by_hand() -> None:
    shape = Shape(width=8, layers=3, heads=2, key_heads=1, feed_forward=16)
    work = needed_work([[[1, 2, 3], [1, 2, 4, 5]]], shape)
    assert (work.tokens_read, work.tokens_computed) == (7, 5)
    keys_values, others, attended, final = 2 * 8 * 8, 2 * (2 * 64 + 3 * 8 * 16), 1 + 2 + 3 + 3 + 4, 3 + 4
    layer = 5 * (keys_values + others) + 4 * 8 * attended
    assert work.flops_all_rows == 3 * layer
    assert work.flops == 2 * layer + 5 * keys_values + 2 * others + 4 * 8 * final


def test_reference_items_are_spread_evenly() -> None:
    assert spread_over([None] * 10, 3) == [0, 3, 6]  # type: ignore[list-item]
    assert spread_over([None] * 2, 3) == [0, 1]  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", [1.01, math.nan])
def test_scores_that_disagree_are_refused(wrong: float) -> None:
    assert difference([0.0, 1.0005], {1: 1.0}) == pytest.approx(5e-4)
    with pytest.raises(ContenderError, match="scores differ"):
        difference([0.0, wrong], {1: 1.0})


def test_padded_peers_race_every_round_only_where_a_bar_is_about_them() -> None:
    assert takes_part("triton", "A", 2, "16m")
    assert not takes_part("triton", "A", 1, "100m")
    assert takes_part("triton", "C", 0, "16m")
    assert not takes_part("triton", "C", 1, "16m")
    assert takes_part("vllm-plain", "C", 1, "100m")


def test_the_better_setting_of_a_peer_counts_and_a_failed_one_does_not() -> None:
    found = results(
        rewardmesh=contender(6, 6, 6),
        **{"vllm-plain": contender(2, 2, 2), "vllm-prefix": contender(3, 3, 3), "ray": contender(4, 4, failed="it ended")},
    )
    assert against(found, "16m", "A", ("vllm-plain", "vllm-prefix")) == 2
    assert best_of(race_passes(found, "16m", "A"), ("ray",)) is None
    assert against(found, "16m", "A", ("ray",)) is None
    assert against(found, "16m", "B", ("vllm-plain",)) is None


def test_floor_and_served_share() -> None:
    found = results(rewardmesh=contender(6, 6, 6), bare=contender(8, 8, 8))
    assert served_share(found, "16m") == 0.75
    assert floor_share(found, "16m") is None
    found["floor"] = {"matmul_flops_per_s": 100.0, "16m": {"round_flops": [500.0, 500.0, 900.0]}}
    assert floor_share(found, "16m") == 0.5


def test_overload_is_judged_at_the_greatest_load() -> None:
    loads = [
        {"load": 1.0, "goodput_items_per_s": 40.0, "accepted_in_time": 1.0, "refusal_p99_s": None},
        {"load": 2.0, "goodput_items_per_s": 30.0, "accepted_in_time": 0.5, "refusal_p99_s": 0.02},
    ]
    assert overload_figure({"overload": {"loads": loads}}, "goodput") == 0.75
    assert overload_figure({"overload": {"loads": loads}}, "accepted_in_time") == 0.5
    assert overload_figure({"overload": {"loads": loads[:1]}}, "refusal_p99_s") is None
    assert overload_figure({}, "goodput") is None


def test_every_bar_is_unmeasured_without_results_and_judged_in_its_direction() -> None:
    assert all(bar is None for _, bar in judged({}))
    gateway = next(wanted for wanted in WANTED if "gateway" in wanted.name)
    for more, met in ((0.04, True), (0.06, False)):
        bar = gateway.judge({"gateway": {"more_time": more}})
        assert bar is not None
        assert bar.met is met
    assert set(Bar.at_most("name", 1.0, "s", 2.0).record()) == {"name", "value", "unit", "bar", "met"}


def test_results_survive_and_merge(tmp_path: Path) -> None:
    path = tmp_path / "results" / "scoring.json"
    Store(path, keep=False).put(1, "races", "16m")
    assert json.loads(path.read_text()) == {"races": {"16m": 1}}
    merged = Store(path, keep=True)
    merged.put(2, "gateway")
    assert json.loads(path.read_text()) == {"races": {"16m": 1}, "gateway": 2}
    assert merged.get("races", "16m") == 1
    assert merged.get("races", "16m", "deeper") is None
    Store(path, keep=False).put(3, "D")
    assert json.loads(path.read_text()) == {"D": 3}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_spoilt_results_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "scoring.json").write_text(text)
    with pytest.raises(ValueError, match=r"scoring\.json"):
        Store(tmp_path / "scoring.json", keep=True)


def test_report_names_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path / "scoring.json", keep=False)
    found = results(rewardmesh=contender(6), **{"vllm-plain": contender(2), "ray": contender(failed="ended with status 1\nmore")})
    store.document.update(found)
    text = write_report(store).read_text()
    assert "| A: against vLLM, better of its two settings | 3 × | ≥ 2 × | yes | ≥ 2.5 | rewardmesh 6.0, vllm-plain 2.0 |" in text
    assert "failed: ended with status 1 |" in text
    assert "| B: against vLLM | not measured |" in text
    assert (tmp_path / "scoring.png").read_bytes().startswith(b"\x89PNG")
    assert [bar["name"] for bar in json.loads((tmp_path / "scoring.json").read_text())["bars"]] == [
        "A: against vLLM, better of its two settings"
    ]


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--only", "E"], "unknown part"), (["--peers", "tgi"], "unknown peer"), (["--rounds", "0"], "at least 1")]
)
def test_mistakes_are_named(arguments: list[str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read_arguments(arguments)


def test_a_run_takes_everything_unless_told_otherwise() -> None:
    full = read_arguments([])
    assert (full.races("16m"), full.races("100m")) == (["A", "B", "C"], ["A"])
    assert set(full.peers) == {"vllm", "triton", "ray", "litserve", "fastapi"}
    part = read_arguments(["--only", "gateway,B", "--peers", "none", "--model", "100m"])
    assert part.only == ("B", "gateway"), "in the order of the parts"
    assert (part.races("100m"), part.peers) == (["B"], [])
    quick = read_arguments(["--quick"])
    assert (quick.models, quick.peers, quick.out.name) == (("tiny",), [], "scoring-quick")


def test_a_missing_environment_is_named_with_its_remedy() -> None:
    with pytest.raises(MissingEnvironmentError, match="make peers"):
        interpreter(".venv-of-nobody")
