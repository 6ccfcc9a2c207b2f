"""The report says what a run did, keeps odd text harmless, and turns what is missing or broken into a note."""

import io
import json
import math
import re
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from rewardmesh.trainer.history import History
from rewardmesh.trainer.ledger import Ledger, LedgerRow
from rewardmesh.trainer.report import EvaluationError, EvaluationRow, read_evaluation, summary_table, write_evaluation, write_report
from rewardmesh.trainer.report.numbers import accuracy_text, text_of, wilson_interval
from rewardmesh.trainer.report.plots import moving_mean
from rewardmesh.trainer.report.samples_view import flips, paired_problems, shorten

_VOID = {"meta", "br", "link", "img", "input", "hr"}


class _Page(HTMLParser):
    """Collects text and tags, and fails on tags that don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        assert not [name for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:")), "the page must load nothing"
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _sample(step: int, group: int, index: int, completion: str, size: int = 4) -> LedgerRow:
    absent = index == size - 1 and step % 7 == 0
    return LedgerRow(
        sample_id=f"s{step}-{group}-{index}",
        group_id=f"g{step}-{group}",
        group_index=index,
        group_size=size,
        prompt=f"Ann has {group} apples and buys {index}. How many?",
        completion=completion,
        finish_reason="stop",
        policy_version=step,
        sampling_log_prob=-12.5,
        reference_log_prob=-13.0,
        reward=None if absent else 0.01 * step,
        absence="DEADLINE" if absent else None,
        absence_detail="the judge took 30 s" if absent else None,
        length=20,
        prompt_ids=np.arange(30, dtype=np.int32),
        completion_ids=np.arange(20, dtype=np.int32),
        components={"correct": 1.0, "helpful": None if absent else 0.3},
        component_absences={"helpful": "DEADLINE"} if absent else {},
        provenance={"helpful": {"model": "helpful-rm", "version": "v7", "fingerprint": "abc123", "cached": False, "queue_seconds": 0.01}},
        credit=0.5,
        credit_kind="pair",
    )


def _metrics(step: int, rng: np.random.Generator) -> dict[str, object]:
    share = step / 60
    return {
        "loss": 0.69 - 0.2 * share + 0.02 * rng.normal(),
        "reward_mean": math.nan if step == 5 else 0.3 + 0.5 * share + 0.05 * rng.normal(),
        "reward_present": 120,
        "reward_absent": 8,
        "component/correct": 0.3 + 0.4 * share + 0.04 * rng.normal(),
        "component/_helpful $x$": 1.2 * share + 0.1 * rng.normal(),
        "component/简洁": 0.5 + 0.1 * rng.normal(),
        "absences/helpful/DEADLINE": int(step % 7 == 0) * 8,
        "absences/concise/UNPARSABLE": int(rng.integers(0, 3)),
        "left_out/absent": int(step % 7 == 0) * 8,
        "kl": 4 * share,
        "length_mean": 60 - 10 * share + rng.normal(),
        "truncated_fraction": 0.02,
        "grad_norm": 1.0,
        "seconds_total": 4.1,
        "seconds_generate": 2.0,
        "seconds_score": 0.7,
        "seconds_reference": 0.3,
        "seconds_train": 0.9,
        "seconds_publish": 0.1,
        "reward_wait_fraction": 0.17,
        "policy_version": step,
        **({"accuracy": 0.3 + 0.4 * share} if step % 10 == 0 else {}),
    }


_SUMMARY: Mapping[str, object] = {
    "heldout_accuracy_before": 0.312,
    "heldout_accuracy_after": 0.702,
    "heldout_greedy_accuracy_before": 0.4,
    "heldout_greedy_accuracy_after": 0.75,
    "heldout_n": 500,
    "reward_before": 0.31,
    "reward_after": 0.82,
    "components_before": {"correct": 0.31, "[bold]helpful": -0.2},
    "components_after": {"correct": 0.7, "[bold]helpful": 1.1},
    "length_before": 61.2,
    "length_after": 50.0,
    "kl": 3.97,
    "steps": 60,
    "seconds_per_step": 4.1,
    "reward_wait_fraction": 0.17,
    "requests": {"gateway": 60, "judge": 1234, "verifier": 7680},
    "absences": {"judge": {"UNPARSABLE": 61, "DEADLINE": 9}, "verifier": {}},
    "versions": {"helpful": {"model": "helpful-rm", "version": "v7", "fingerprint": "abc123"}},
    "algorithm": "online_dpo",
    "seed": 3,
    "policy": "tiny <policy>",
    "finished": True,
}


def _evaluation(right: float, n: int = 500) -> list[EvaluationRow]:
    rng = np.random.default_rng(int(100 * right))
    return [
        EvaluationRow(
            problem_id=f"p{index}",
            prompt=f"What is {index} + 1?",
            reference=str(index + 1),
            completion=f"{index} + 1 = {index + 1}.",
            correct=None if index == 25 else bool(rng.random() < right),
            absence="UNPARSABLE" if index == 25 else None,
            evidence=f"{index + 1} against {index + 1}",
            components={"helpful": 0.5},
            length=12,
            finish_reason="stop",
        )
        for index in range(n)
    ]


def _run(folder: Path, steps: int = 12, groups: int = 2, completion: str = "3 + 4 = 7 <b>apples</b>", summary: bool = True) -> Path:
    rng = np.random.default_rng(0)
    history = History(folder / "metrics.jsonl")
    ledger = Ledger(folder / "ledger")
    for step in range(1, steps + 1):
        history.append(step, _metrics(step, rng))
        ledger.write(step, [_sample(step, group, index, completion) for group in range(groups) for index in range(4)])
    write_evaluation(folder / "eval_before.parquet", _evaluation(0.31))
    if summary:
        write_evaluation(folder / "eval_after.parquet", _evaluation(0.7))
        (folder / "summary.json").write_text(json.dumps(_SUMMARY))
    (folder / "recipe.yaml").write_text("algorithm: online_dpo # <script>\n")
    return folder


def _page(folder: Path) -> _Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return _Page(path.read_text(encoding="utf-8"))


def test_a_finished_run(tmp_path: Path) -> None:
    page = _page(_run(tmp_path))
    for expected in (
        "Held-out accuracy, sampled (n=500) 31.2 % [27.3, 35.4] 70.2 % [66.0, 74.0] +39.0 points",
        "Held-out accuracy, greedy (n=500)",
        "Composed reward 0.310 0.820 +0.510",
        "component [bold]helpful -0.200 1.100 +1.300",
        "Completion length (tokens) 61.2 50.0 -11.2",
        "KL from the reference (nats) – 3.970",
        "judge 1,234 70 DEADLINE 9, UNPARSABLE 61",
        "helpful helpful-rm v7 abc123",
        "tiny <policy>",
        "The ledger adds up: steps 1 to 12, 24 complete groups, 96 samples, none twice, 2 without a reward.",
        "Step 1",
        "Step 7",
        "Step 12",
        "absent: DEADLINE the judge took 30 s",
        "helpful absent (DEADLINE)",
        "model helpful-rm, queue_seconds 0.010, version v7",
        "3 + 4 = 7 <b>apples</b>",
        "? no verdict",
        "UNPARSABLE 26 against 26",
        "algorithm: online_dpo # <script>",
        "became right",
        "Reward against KL",
        "Component _helpful $x$",
        "Component 简洁",
        "Absences by signal and reason",
    ):
        assert expected in page.text
    assert not page.tags & {"script", "b", "link", "iframe"}
    assert len(page.ids) == len(set(page.ids))


def test_a_run_that_was_killed(tmp_path: Path) -> None:
    _run(tmp_path, steps=3, summary=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    page = _page(tmp_path)
    for expected in ("There is no summary", "no held-out evaluation after training yet", "The last recorded step", "not evaluated"):
        assert expected in page.text
    assert "helpful helpful-rm v7 abc123" in page.text


def test_an_empty_run(tmp_path: Path) -> None:
    page = _page(tmp_path)
    for expected in ("There is no summary", "No training step was recorded", "There is no ledger", "The run folder holds no recipe"):
        assert expected in page.text
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        write_report(tmp_path / "none")


def test_a_run_whose_rewards_are_all_absent(tmp_path: Path) -> None:
    history, ledger = History(tmp_path / "metrics.jsonl"), Ledger(tmp_path / "ledger")
    for step in range(1, 3):
        history.append(step, {"reward_present": 0, "reward_mean": math.nan, "absences/correct/INFRASTRUCTURE": 4, "loss": None})
        ledger.write(step, [])
    page = _page(tmp_path)
    for expected in ("every score was absent", "Composed reward: Not recorded", "The ledger holds no samples", "0 samples"):
        assert expected in page.text


def test_broken_files_become_notes(tmp_path: Path) -> None:
    _run(tmp_path, steps=3)
    (tmp_path / "ledger" / "step-000002.parquet").write_bytes(b"torn")
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "eval_after.parquet").write_bytes(b"torn")
    (tmp_path / "metrics.jsonl").write_text("no\n")
    page = _page(tmp_path)
    for expected in (
        "The ledger does not add up",
        "step-000002.parquet",
        "summary could not be read",
        "eval_after.parquet",
        "line 1: not JSON",
    ):
        assert expected in page.text


def test_a_hole_in_the_ledger_is_said(tmp_path: Path) -> None:
    _run(tmp_path, steps=3)
    (tmp_path / "ledger" / "step-000001.parquet").unlink()
    assert "step 1 is missing" in _page(tmp_path).text


def test_values_of_other_types_are_shown_not_trusted(tmp_path: Path) -> None:
    summary = {
        "heldout_accuracy_before": "often",
        "heldout_n": 0,
        "requests": {"judge": {"OK": 3, "UNAVAILABLE": 1}},
        "absences": [],
        "versions": {"helpful": "v\ud800"},
        "components_before": None,
        "seed": {"a": "<i>"},
        "finished": False,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    History(tmp_path / "metrics.jsonl").append(1, {"loss": "x", "reward_mean": True, "component/a": [1], "kl": {"b": 2}})
    page = _page(tmp_path)
    for expected in ("The run did not finish", "judge 4", "v\\ud800", "{'a': '<i>'}"):
        assert expected in page.text


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_stays_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    hostile = text + "</pre><script>alert(1)</script>{{ 7 * 7 }}"
    Ledger(folder / "ledger").write(1, [_sample(1, 0, index, hostile) for index in range(4)])
    write_evaluation(
        folder / "eval_before.parquet", [EvaluationRow(hostile, hostile, hostile, False, 1, "stop", components={hostile: 1.0})]
    )
    History(folder / "metrics.jsonl").append(1, {f"component/{hostile}": 1.0, f"absences/{hostile}/DEADLINE": 2})
    (folder / "summary.json").write_text(json.dumps({"components_before": {hostile: 1}, "policy": hostile}))
    page = _page(folder)
    assert "script" not in page.tags
    assert page.text.count("{{ 7 * 7 }}") > 5


def test_huge_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    page = _page(_run(tmp_path, steps=1, completion="x" * 1_000_000))
    assert "998,800 more characters are not shown" in page.text
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert shorten("a\x00b\nc", 4).shown == "a␀b\n"


def test_report_of_sixty_steps_is_quick(tmp_path: Path) -> None:
    _run(tmp_path, steps=60, groups=32)
    started = time.perf_counter()
    path = write_report(tmp_path)
    assert time.perf_counter() - started < 10
    assert path.stat().st_size < 3_000_000


def test_evaluation_is_read_back(tmp_path: Path) -> None:
    rows = _evaluation(0.5, n=30)
    assert read_evaluation(write_evaluation(tmp_path / "eval" / "eval_before.parquet", rows)) == rows
    row = rows[0]
    with pytest.raises(EvaluationError, match="'p0' is there twice"):
        write_evaluation(tmp_path / "x.parquet", [row, row])
    with pytest.raises(EvaluationError, match="column completion can't be stored"):
        write_evaluation(tmp_path / "x.parquet", [EvaluationRow("p", "q", "\ud800", None, 1, "stop")])
    with pytest.raises(EvaluationError, match="reward is nan"):
        write_evaluation(tmp_path / "x.parquet", [EvaluationRow("p", "q", "r", None, 1, "stop", reward=math.nan)])
    with pytest.raises(EvaluationError, match=r"x\.parquet"):
        read_evaluation(tmp_path / "x.parquet")


def test_problems_are_paired_and_counted() -> None:
    before, after = _evaluation(0.3), _evaluation(0.7)
    problems = paired_problems(before, after[:-1])
    assert [problem.id for problem in problems] == [f"p{25 * index}" for index in range(20)]
    counts = flips(before, after)["sampled"]
    assert sum(counts.values()) == 500
    assert counts["without a verdict"] == 1
    assert paired_problems([], []) == []


def test_terminal_table() -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    for summary in (_SUMMARY, {}, {"finished": False}):
        console.print(summary_table(summary))
    text = console.export_text()
    for expected in ("component [bold]helpful", "31.2 % [27.3, 35.4]", "+39.0 points", "online_dpo", "UNPARSABLE 61", "Run (interrupted)"):
        assert expected in text


def test_numbers() -> None:
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert accuracy_text(0.5, None) == "50.0 %"
    assert [text_of(value) for value in (None, 3, 1234, 0.00012, 0.5, math.nan, True, "x")] == [
        "–", "3", "1,234", "0.00012", "0.500", "nan", "True", "x",
    ]  # fmt: skip
    assert moving_mean(np.array([1.0, math.nan, 3.0, math.nan]), 2) == pytest.approx([1.0, 1.0, 3.0, 3.0])
