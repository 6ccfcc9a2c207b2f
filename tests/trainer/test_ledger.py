"""The ledger and the metrics history: what is written is read back, nothing half-written is, and a hole is found."""

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.trainer.history import History, HistoryError
from rewardmesh.trainer.ledger import SCHEMA, Ledger, LedgerError, LedgerRow, rows_of_group
from rewardmesh.trainer.samples import Group, Rollout, Scores


def _row(step: int, group: int, index: int, size: int = 2) -> LedgerRow:
    return LedgerRow(
        sample_id=f"s{step}-{group}-{index}",
        group_id=f"s{step}-{group}",
        group_index=index,
        group_size=size,
        prompt="2 + 2?",
        completion="4",
        finish_reason="stop",
        policy_version=step,
        sampling_log_prob=-1.5,
        reward=0.25 if index else None,
        absence=None if index else "DEADLINE",
        length=1,
    )


def _rows(step: int) -> list[LedgerRow]:
    return [_row(step, group, index) for group in range(3) for index in range(2)]


def _group() -> Group:
    rollouts = tuple(
        Rollout(
            id=f"g-{i}",
            group_id="g",
            prompt_ids=np.array([1, 2, 3], np.int32),
            completion_ids=np.arange(i + 1, dtype=np.int32),
            sampling_log_probs=np.full(i + 1, -0.5, np.float32),
            text="<b>42</b>",
            prompt_text="6 × 7?",
            finish_reason="stop",
            policy_version=3,
        )
        for i in range(2)
    )
    scores = (
        Scores(
            reward=1.0,
            components={"correct": 1.0, "helpful": None},
            component_absences={"helpful": "OVERLOADED"},
            provenance={"correct": {"model": "math", "queue_seconds": np.float32(0.5), "cached": False}},
        ),
        Scores(reward=None, absence="OVERLOADED", advice="WAIT"),
    )
    return Group(id="g", rollouts=rollouts, scores=scores, reference_log_probs=(np.array([-1.0], np.float32), None), references=("42",))


@contextmanager
def _file_size_limit(bytes_: int) -> Iterator[None]:
    """The kernel refuses writes past `bytes_`, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_group_is_read_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    path = ledger.write(
        12, rows_of_group(_group(), credit=[0.5, None], credit_kind="pair", attempts=[1, 3], absence_details=[None, "queue full"])
    )
    assert path.name == "step-000012.parquet"
    first, second = ledger.read().to_pylist()
    assert first["step"] == 12
    assert first["completion"] == "<b>42</b>"
    assert first["prompt_ids"] == [1, 2, 3]
    assert first["references"] == ["42"]
    assert dict(first["components"]) == {"correct": 1.0, "helpful": None}
    assert dict(first["component_absences"]) == {"helpful": "OVERLOADED"}
    assert dict(first["provenance"]) == {"correct": '{"cached": false, "model": "math", "queue_seconds": 0.5}'}
    assert (first["credit"], first["credit_kind"], first["reference_log_prob"]) == (0.5, "pair", -1.0)
    assert (second["reward"], second["absence"], second["absence_detail"], second["advice"]) == (None, "OVERLOADED", "queue full", "WAIT")
    assert (second["length"], second["sampling_log_prob"], second["reference_log_prob"]) == (2, -1.0, None)
    assert (second["attempts"], second["credit"], second["credit_kind"]) == (3, None, None)


def test_rows_of_group_refuses_a_credit_of_the_wrong_length() -> None:
    with pytest.raises(LedgerError, match="credit has 1 entries for 2 samples"):
        rows_of_group(_group(), credit=[0.5])


def test_a_resumed_run_counts_every_sample_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for step in range(1, 6):
        ledger.write(step, _rows(step))
    (tmp_path / ".step-000006.parquet.99.tmp").write_bytes(b"left by a killed process")
    assert ledger.truncate_after(3) == [4, 5]
    ledger.write(3, _rows(3))
    ledger.write(4, _rows(4))
    count = ledger.check(last_step=4)
    assert (count.steps, count.groups, count.samples, count.absent) == (4, 12, 24, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:06d}.parquet" for step in range(1, 5)]


def test_check_names_every_problem(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(1, _rows(1))
    ledger.write(3, [_row(1, 0, 0), *_rows(3)[1:]])
    with pytest.raises(LedgerError) as caught:
        ledger.check(last_step=4)
    message = str(caught.value)
    assert "step 2 is missing" in message
    assert "step 4 is missing" in message
    assert "sample 's1-0-0' is in step 1 and in step 3" in message
    assert "group 's3-0' of step 3 is incomplete: samples [1] of 2" in message
    with pytest.raises(LedgerError, match=r"step 1 is outside 2\.\.3"):
        ledger.check(first_step=2)


def test_no_ledger_and_a_step_without_samples(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none")
    assert ledger.read().num_rows == 0
    assert ledger.check().steps == 0
    assert ledger.truncate_after(0) == []
    assert not (tmp_path / "none").exists()
    ledger.write(1, [])
    assert ledger.read(columns=["reward"]).schema.names == ["reward"]
    assert ledger.check(last_step=1).samples == 0
    assert ledger.merge(tmp_path / "samples.parquet") == 0
    assert pq.read_table(tmp_path / "samples.parquet").schema.equals(SCHEMA)


def test_merge_holds_every_row_in_step_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for step in (2, 1, 3):
        ledger.write(step, _rows(step))
    assert ledger.merge(tmp_path / "samples.parquet") == 18
    merged = pq.read_table(tmp_path / "samples.parquet")
    assert merged.equals(ledger.read())
    assert merged.column("step").to_pylist() == [step for step in (1, 2, 3) for _ in range(6)]
    assert ledger.read(columns=["step", "reward"], steps=[3]).num_rows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": math.nan, "absence": None}, "reward is nan"),
        ({"reward": 1.0, "absence": "DEADLINE"}, "needs a reward or the reason"),
        ({"reward": None, "absence": None}, "needs a reward or the reason"),
        ({"components": {"helpful": math.inf}}, "component 'helpful' is inf"),
        ({"completion": "\ud800"}, "sample 's1-0-0', column completion"),
        ({"components": {"\ud800": 1.0}}, "sample 's1-0-0', column components"),
        ({"prompt_ids": np.array([2**40])}, "sample 's1-0-0', column prompt_ids"),
        ({"provenance": {"x": {"a": object()}}}, "provenance can't be stored as JSON"),
        ({"sample_id": ""}, "need an id"),
    ],
)
def test_rows_that_cannot_be_true_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(LedgerError, match=message):
        ledger.write(1, [replace(_row(1, 0, 0), **change), _row(1, 0, 1)])  # type: ignore[arg-type]
    assert ledger.steps() == []


def test_a_repeated_id_in_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the id is there twice"):
        Ledger(tmp_path).write(1, [_row(1, 0, 0), _row(1, 0, 0)])


def test_a_full_disk_leaves_the_old_step_and_nothing_half_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(1, _rows(1))
    big = [replace(row, prompt_ids=np.random.default_rng(0).integers(0, 2**31, 9000).astype(np.int32)) for row in _rows(1)]
    with _file_size_limit(4096), pytest.raises(LedgerError, match=r"step-000001\.parquet: the ledger of step 1 could not be written"):
        ledger.write(1, big)
    ledger.write(2, big)
    ledger.write(3, big)
    with _file_size_limit(4096), pytest.raises(LedgerError, match=r"samples\.parquet: the ledger could not be merged"):
        ledger.merge(tmp_path / "samples.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:06d}.parquet" for step in (1, 2, 3)]
    assert ledger.read(steps=[1]).column("length").to_pylist() == [1] * 6


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="file/ledger"):
        Ledger(tmp_path / "file" / "ledger").write(1, [])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path(1).write_bytes(b"PAR1 cut off")
    with pytest.raises(LedgerError, match=r"step-000001\.parquet"):
        ledger.read()
    pq.write_table(SCHEMA.remove(0).empty_table(), ledger.path(1))
    with pytest.raises(LedgerError, match="not a ledger of this version"):
        ledger.read()


def test_history_keeps_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    history = History(tmp_path / "run" / "metrics.jsonl")
    assert history.read() == []
    history.append(1, {"loss": math.nan, "kl": np.float32(0.5), "up": math.inf, "down": -math.inf, "n": np.int64(3), "note": "ü"})
    (record,) = history.read()
    assert math.isnan(record.pop("loss"))  # type: ignore[arg-type]
    assert record == {"step": 1, "kl": 0.5, "up": math.inf, "down": -math.inf, "n": 3, "note": "ü"}


def test_history_survives_a_torn_line_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    for step in range(1, 6):
        history.append(step, {"loss": 1.0 / step})
    with path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    assert [record["step"] for record in History(path).read()] == [1, 2, 3, 4, 5]
    resumed = History(path)
    resumed.truncate_after(3)
    resumed.append(4, {"loss": 0.0})
    assert [record["step"] for record in resumed.read()] == [1, 2, 3, 4]
    with path.open("ab") as file:
        file.write(b'{"step": 5')
    History(path).append(5, {})
    assert [record["step"] for record in history.read()] == [1, 2, 3, 4, 5]


def test_history_refuses_a_step_twice_and_names_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    History(path).append(2, {})
    with pytest.raises(HistoryError, match="step 2 is not after step 2"):
        History(path).append(2, {})
    with pytest.raises(HistoryError, match="step 3 are not JSON"):
        History(path).append(3, {"loss": object()})
    path.write_bytes(b'{"step": 1}\nnot json\n')
    with pytest.raises(HistoryError, match="line 2"):
        History(path).read()
    path.write_bytes(b'{"loss": 1}\n')
    with pytest.raises(HistoryError, match="line 1: not an object with a whole number as step"):
        History(path).read()


def test_history_on_a_full_disk_goes_on_after_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    history.append(1, {"loss": 1.0})
    with _file_size_limit(40), pytest.raises(HistoryError, match="could not be written"):
        history.append(2, {"loss": 2.0, "note": "x" * 100})
    history.append(2, {"loss": 3.0})
    assert [record["loss"] for record in history.read()] == [1.0, 3.0]


@given(text=st.text(st.characters(exclude_categories=["Cs"])), reward=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_any_number_survive(tmp_path_factory: pytest.TempPathFactory, text: str, reward: float) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    ledger.write(1, [replace(_row(1, 0, 1), completion=text, reward=reward, components={text: reward})])
    (row,) = ledger.read().to_pylist()
    assert (row["completion"], row["reward"], row["components"]) == (text, reward, [(text, reward)])
