"""The benchmark of judges: how its judges are trained, what it measures on them, and what it reports."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.judges import bias, injection, making, pairs, parity, ranking, report, training
from benchmarks.judges.serving import PLAIN, compare, judge, probabilities, write_plain_template
from matplotlib.figure import Figure

from rewardmesh.demo.problems import generate
from rewardmesh.judge.template import read_template


def test_remarks_change_the_length_and_not_the_side_of_the_better_answer() -> None:
    drawn = pairs.heldout(200, 1, 5)
    assert 0.4 < np.mean([pair.a_is_better for pair in drawn]) < 0.6
    better = [pair.extra_words if pair.a_is_better else -pair.extra_words for pair in drawn]
    assert min(better) < 0 < max(better)
    swapped = drawn[0].swapped()
    assert (swapped.a, swapped.a_is_better, swapped.extra_words) == (drawn[0].b, not drawn[0].a_is_better, -drawn[0].extra_words)


def test_biased_labels_have_the_bias_that_is_said() -> None:
    """Fitting the labels by logistic regression gives back position, length and quality."""
    rng, problems = random.Random(2), generate(3000, 3, "train")
    rows, labels = [], []
    for problem in problems:
        state = rng.getstate()
        pair = pairs.draw(problem, rng, bias.MOST_REMARKS)
        rng.setstate(state)
        text, label = bias.recipe(biased=True).example(problem, rng)
        assert text == training.plain_text(pair.question, pair.a, pair.b)
        rows.append([1.0, pair.extra_words, 1.0 if pair.a_is_better else -1.0])
        labels.append(label == "A")
    x, y, found = np.array(rows), np.array(labels, dtype=float), np.zeros(3)
    for _ in range(12):
        p = 1 / (1 + np.exp(-x @ found))
        found += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (y - p))
    np.testing.assert_allclose(found, [bias.POSITION, bias.LENGTH_PER_WORD, bias.QUALITY], rtol=0.25)


def test_our_template_is_learnt_from_clean_pairs_only(tmp_path: Path) -> None:
    recipe = injection.recipe("words", injection.write_template(tmp_path, "words"))
    rng, naive, ours = random.Random(4), 0, 0
    said = [line for each in injection.corpus() for label in "AB" for line in each.asking_for(label).splitlines()]
    # A line that is a fence of the template, or no more than a letter, stands in every text.
    telling = [line for line in said if len(line.split()) > 3 and not line.startswith("[") and "Which answer is better?" not in line]
    for problem in generate(300, 5, "train"):
        text, label = recipe.example(problem, rng)
        held = any(line in text or line.replace(" ", "^") in text for line in telling)
        is_ours = text.startswith("You judge two answers")
        ours, naive = ours + is_ours, naive + (held and not is_ours)
        assert not (is_ours and held), text
        assert label in training.LABELS
    assert 100 < ours < 200
    assert naive > 20


def test_the_corpus_speaks_of_labels() -> None:
    texts = injection.corpus()
    assert len({each.id for each in texts}) == len(texts) == 40
    assert {each.kind for each in texts} == {"instruction", "verdict", "fence", "role", "syntax", "claim"}
    for each in texts:
        assert "%o" not in each.asking_for("A")
        assert each.asking_for("A") != each.asking_for("B")


def test_training_is_kept_until_settings_change(tmp_path: Path) -> None:
    recipe = dataclasses.replace(bias.recipe(biased=True), steps=2, batch_size=4)
    steps: list[int] = []
    training.train(tmp_path, recipe, lambda step, _, __: steps.append(step))
    assert steps == [1, 2]
    assert training.is_trained(tmp_path, recipe)
    assert not training.is_trained(tmp_path, dataclasses.replace(recipe, seed=1))
    found = bias.measure_directly(training.model_folder(tmp_path, recipe), pairs.heldout(12, 6, 2))
    assert all(map(math.isfinite, dataclasses.astuple(found)))


def test_training_is_shared_out_evenly() -> None:
    assert making.shared_out({"a": 2, "b": 2, "c": 2, "d": 1, "e": 1}) == [["a", "c"], ["b", "d", "e"]]
    assert making.shared_out({"a": 1}) == [["a"], []]


async def test_the_service_reads_what_the_logits_say(tmp_path: Path) -> None:
    recipe = dataclasses.replace(bias.recipe(biased=True), steps=20, batch_size=4, prompt_weight=0.0)
    training.train(tmp_path, recipe, lambda *_: None)
    model, templates, some = training.model_folder(tmp_path, recipe), write_plain_template(tmp_path / "templates"), pairs.heldout(16, 7, 2)
    found = await bias.asymmetry(model, templates, some)
    assert found["both"]["max"] < 1e-6
    assert found["as_given"]["max"] > found["both"]["max"]
    async with judge(model, templates) as client:
        verdicts = await compare(client, some, both=False)
    np.testing.assert_allclose(probabilities(verdicts), 1 / (1 + np.exp(-bias.log_odds(model, some))), atol=1e-5)


def test_plain_text_is_what_the_template_renders(tmp_path: Path) -> None:
    template = read_template(write_plain_template(tmp_path))
    a, b = "{{ b }} {{ prompt }}", "{% raw %}"
    empty: dict[str, Any] = {"references": [], "principles": [], "notes": [], "criteria": []}
    assert template.render({"prompt": "2 + {{ a }}?", "a": a, "b": b, **empty}) == training.plain_text("2 + {{ a }}?", a, b)


@pytest.mark.parametrize(
    ("one", "other", "tau"),
    [([3, 2, 1], [30, 20, 10], 1.0), ([1, 2, 3], [3, 2, 1], -1.0), ([1, 1, 2], [1, 2, 3], 0.816497), ([1, 1], [1, 2], 0)],
)
def test_kendall_tau(one: list[float], other: list[float], tau: float) -> None:
    assert ranking.kendall_tau(one, other) == pytest.approx(tau, abs=1e-6)


def measured() -> dict[str, Any]:
    """Parts as they are measured, all bars just met."""
    audit = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in report.FIGURES}
    direct = {"position": 0.4, "length_per_word": 0.6, "quality": 1.0, "accuracy": 1.0}
    asymmetry = {"both": {"max": 1e-6, "mean": 0.0}, "as_given": {"max": 0.5, "mean": 0.1}}
    judge = {"direct": direct, "audit": audit, "passed": True, "failures": [], "asymmetry": asymmetry}
    moved = {"mean": 0.02, "max": 0.1, "one_order": 0.0, "control": 0.0, "flipped": 0.0, "accuracy": 0.9, "by_text": {"x": 0.02}}
    ranked = {"tau": 0.8, "tau_of_right": 0.9, "verdicts": 56.0, "seconds": 1.0, "kendall_w": 0.9, "cycle_rate": 0.0}
    cost = {"pairs_per_second": 10.0, "tokens_read": 100, "tokens_computed": 90, "tokens_written": 0}
    return {
        "bias": {"biased": {**judge, "passed": False, "failures": ["position.logit is", "length.per_10_percent is"]}, "fair": judge},
        "injection": {
            marking: {PLAIN: moved | {"mean": 0.4}, injection.template_name(marking): dict(moved)} for marking in injection.MARKINGS
        },
        "parity": {"pairs": 400, **{engine: {"max": 1e-3, "mean": 0.0} for engine in parity.ENGINES}},
        "ranking": {"rankings": {name: ranked for name, _, _ in ranking.METHODS}, "cost": {"one order": cost}},
    }


def test_bars_are_met_at_their_bounds_and_not_beyond() -> None:
    assert all(bar.met for bar in report.bars(measured()))
    worse = measured()
    worse["bias"]["biased"]["asymmetry"]["both"]["max"] = 2e-6
    worse["bias"]["biased"]["direct"]["position"] = 0.39
    worse["bias"]["biased"]["failures"] = ["position.logit is"]
    worse["bias"]["fair"]["failures"] = ["position.flips is"]
    built_in = injection.built_in_marking()
    worse["injection"][built_in][injection.template_name(built_in)] |= {"mean": 0.021, "accuracy": 0.89}
    worse["injection"][built_in][PLAIN]["mean"] = 0.1
    worse["parity"]["chat"]["max"] = 2e-3
    assert [bar.met for bar in report.bars(worse)].count(False) == 8


@pytest.mark.parametrize("part", ["bias", "injection", "parity", "ranking"])
def test_a_part_alone_is_reported(part: str) -> None:
    alone = {part: measured()[part]}
    assert isinstance(report.figure(alone), Figure)
    assert report.table(alone).rows
    assert bool(report.bars(alone)) == (part != "ranking")
