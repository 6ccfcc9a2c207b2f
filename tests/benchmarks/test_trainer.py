"""The benchmark of the update phase: its own contenders agree, and its figures say what they mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks._items import Shape, read_questions, write_model
from benchmarks._report import describe_machine
from benchmarks.trainer.batch import make_credit, write_batch
from benchmarks.trainer.contender import ContenderError, ours
from benchmarks.trainer.race import OURS, disagreement, gradient_differences, speed_up
from benchmarks.trainer.report import write_report
from benchmarks.trainer.worker import read_batch
from safetensors.torch import save_file


def test_our_contenders_agree_and_stay_together(tmp_path: Path) -> None:
    questions, _ = read_questions(None, 2)
    model, batch = tmp_path / "model", tmp_path / "batch.json"
    write_model(model, questions, Shape(width=32, layers=2, heads=2, key_heads=1, feed_forward=64), kind="causal")
    tokens = write_batch(batch, model, questions)
    records = {}
    for without in ("", "sharing", "packing"):
        with ours(model, batch, 1, tmp_path, without) as contender:
            assert contender.about["tokens_read"] == tokens
            gradient = contender.ask(f"gradient {tmp_path / contender.name}.safetensors")
            updates = [contender.ask("step") for _ in range(2)]
        records[contender.name] = {"gradient": gradient, "updates": updates}
        assert updates[0]["gradient_norm"] == pytest.approx(gradient["gradient_norm"], rel=1e-6)
        assert all(update["seconds"] > 0 and update["peak_mib"] > 0 for update in updates)
    for name in ("without-sharing", "without-packing"):
        differences = gradient_differences(tmp_path / f"{name}.safetensors", tmp_path / f"{OURS}.safetensors")
        assert max(differences.values()) < 1e-4
        assert disagreement(records, OURS, name) < 1e-5


def test_the_batch_has_group_standardised_advantages(tmp_path: Path) -> None:
    questions, _ = read_questions(None, 2)
    write_model(tmp_path / "model", questions, Shape(width=32, layers=1, heads=2, key_heads=1, feed_forward=64), kind="causal")
    write_batch(tmp_path / "batch.json", tmp_path / "model", questions)
    sequences = read_batch(tmp_path / "batch.json")
    assert [sequence.group for sequence in sequences] == [0, 0, 0, 0, 1, 1, 1, 1]
    for first in (0, 4):
        rewards = torch.tensor([sequence.reward for sequence in sequences[first : first + 4]], dtype=torch.float64)
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        assert [s.advantage for s in sequences[first : first + 4]] == pytest.approx(expected.tolist(), abs=1e-6)
    assert make_credit(sequences).normaliser == sum(len(sequence.completion) for sequence in sequences)


def test_a_contender_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text("[]")
    with pytest.raises(ContenderError, match="ended with status 1"), ours(tmp_path / "nowhere", tmp_path / "batch.json", 1, tmp_path):
        pass


def test_gradient_differences_are_relative_to_each_parameter(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([2.0])}, tmp_path / "one")
    save_file({"a": torch.tensor([1.0, 0.1]), "b": torch.tensor([2.0])}, tmp_path / "other")
    differences = gradient_differences(tmp_path / "other", tmp_path / "one")
    assert differences == pytest.approx({"a": 0.1, "b": 0.0}, abs=1e-6)
    save_file({"a": torch.tensor([1.0, 0.1])}, tmp_path / "fewer")
    with pytest.raises(ValueError, match="different parameters: b"):
        gradient_differences(tmp_path / "fewer", tmp_path / "one")


def test_the_report_judges_every_bar(tmp_path: Path) -> None:
    def record(seconds: list[float], difference: float) -> dict[str, object]:
        updates = [{"round": n, "seconds": s, "loss": 0.5, "gradient_norm": 1.0, "peak_mib": 100.0} for n, s in enumerate(seconds)]
        return {"title": "x", "about": {"tokens_computed": 7}, "gradient": {"difference": difference}, "updates": updates}

    contenders = {OURS: record([1.0, 2.0, 1.0], 0.0), "slow": record([3.0, 3.0, 3.5], 1e-6), "hand": record([2.0, 2.0, 1.5], 1e-3)}
    assert speed_up(contenders, "slow", OURS) == (3.0, 1.5, 3.5)
    race = {
        "parameters": 1,
        "source": "none",
        "questions": 1,
        "tokens_read": 5,
        "peer": "slow",
        "peer_by_hand": "hand",
        "contenders": contenders,
    }
    path, bars = write_report(tmp_path, describe_machine(1), {"tiny": race})
    assert [(bar.value, bar.met) for bar in bars] == [(3.0, True), (1e-3, False), (0.0, True)]
    document = json.loads((tmp_path / "trainer.json").read_text())
    assert [bar["met"] for bar in document["bars"]] == [True, False, True]
    assert set(document) >= {"machine", "bars", "races"}
    assert "3.00× (1.50 to 3.50)" in path.read_text()
    assert (tmp_path / "trainer.png").exists()
