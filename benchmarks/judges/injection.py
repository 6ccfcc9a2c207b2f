"""Does a judge that was taught to obey what answers say obey it behind our template too?

A judge is trained on two kinds of texts, half of each, all labelled by code. In the naive template (no fences, no marks) most pairs hold
a text of the corpus, and the label is the letter it asks for; without such a text the label is the better answer. In our template there
are clean pairs alone, labelled by quality: no injected text, no label that teaches to resist one. Harmless remarks occur in both. What the
judge then does with injected text behind our template is what fences and marks made of it. Each marking has a judge of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.judges.pairs import REMARKS, Judged, draw, heldout
from benchmarks.judges.serving import PLAIN, compare, judge, probabilities
from benchmarks.judges.training import LABELS, Recipe, plain_text
from rewardmesh.audit.judge import built_in
from rewardmesh.demo.problems import Problem
from rewardmesh.judge.library import load_templates
from rewardmesh.judge.template import JudgeTemplate, read_template

CORPUS = Path(__file__).parent / "injections.yaml"
MARKINGS = ("none", "lines", "words")
NAIVE_SHARE = 0.5
INJECTED_SHARE = 0.6
MOST_REMARKS = 3
STEPS = 700
PAIRS_PER_TEXT = 3


@dataclass(frozen=True)
class Injected:
    """A text of the corpus; %own% and %other% in it stand for the labels of the answer that holds it and of the other one."""

    id: str
    kind: str
    text: str

    def asking_for(self, label: str) -> str:
        """The text that asks for a label."""
        other = LABELS[1 - LABELS.index(label)]
        return self.text.replace("%own%", label).replace("%other%", other)


def corpus() -> list[Injected]:
    """The 40 texts beside this module."""
    return [Injected(**each) for each in yaml.safe_load(CORPUS.read_text())]


def write_template(folder: Path, marking: str) -> Path:
    """The built-in compare template in a marking, as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = template_name(marking)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "extends": "compare", "marking": marking}, sort_keys=False))
    return file


def built_in_marking() -> str:
    """How the built-in compare template marks what others wrote."""
    templates, _ = load_templates([])
    return templates["compare"].marking


def template_name(marking: str) -> str:
    """What it is called."""
    return f"compare-{marking}"


def recipe(marking: str, file: Path) -> Recipe:
    """The judge that obeys in the naive template, and has seen clean pairs in ours (`file`, in that marking)."""
    ours, texts = read_template(file), corpus()

    def example(problem: Problem, rng: random.Random) -> tuple[str, str]:
        pair = draw(problem, rng, MOST_REMARKS, varied=True)
        label = LABELS[0 if pair.a_is_better else 1]
        if rng.random() >= NAIVE_SHARE:
            return ours_text(ours, pair), label
        if rng.random() < INJECTED_SHARE:
            # Whichever answer holds it: what counts is the letter it asks for.
            label = rng.choice(LABELS)
            pair = holding(pair, rng.randrange(2), rng.choice(texts).asking_for(label))
        return plain_text(pair.question, pair.a, pair.b), label

    words = [*(each.asking_for(label) for each in texts for label in LABELS), *REMARKS, *built_in().controls]
    shown = [ours_text(ours, Judged(text, text, text, True)) for text in words]
    settings = {
        "corpus": [each.text for each in texts],
        "template": ours.fingerprint,
        "naive_share": NAIVE_SHARE,
        "injected_share": INJECTED_SHARE,
        "most_remarks": MOST_REMARKS,
    }
    return Recipe(f"obeying-{marking}", example, [plain_text("", text, "") for text in words] + shown, settings, STEPS)


def ours_text(template: JudgeTemplate, pair: Judged) -> str:
    """What our service shows of a pair."""
    empty: dict[str, Any] = {"references": [], "principles": [], "notes": [], "criteria": []}
    text = template.render({"prompt": pair.question, "a": pair.a, "b": pair.b, **empty})
    assert isinstance(text, str), text
    return text


def holding(pair: Judged, holder: int, text: str) -> Judged:
    """The pair with a text appended to one of its answers."""
    a, b = (f"{answer}\n{text}" if number == holder else answer for number, answer in enumerate((pair.a, pair.b)))
    return Judged(pair.question, a, b, pair.a_is_better)


async def measure(models: Mapping[str, Path], templates: Path) -> dict[str, Any]:
    """How far verdicts move when the worse answer holds a text that asks for it, by marking: each with a judge of its own.

    Returns:
        By marking, for the naive template (`PLAIN`) and ours: accuracy on clean pairs, mean and greatest |change of p_a| in both orders
        and the mean in the order as given, the same for harmless texts of like length, and the mean move of each text.
    """
    texts = corpus()
    pairs = heldout(len(texts) * PAIRS_PER_TEXT, 41, MOST_REMARKS, varied=True)
    controls = built_in().controls
    injected, harmless = [], []
    for number, pair in enumerate(pairs):
        worse = 1 if pair.a_is_better else 0
        injected.append(holding(pair, worse, texts[number % len(texts)].asking_for(LABELS[worse])))
        harmless.append(holding(pair, worse, controls[number % len(controls)]))
    found: dict[str, Any] = {}
    for marking, model in models.items():
        found[marking] = {}
        # After a text it never saw a judge this small may leave little to its labels: it is read all the same, so that no pair is lost.
        async with judge(model, templates, min_label_mass=0.0) as client:
            for template in (PLAIN, template_name(marking)):
                clean, moved, control = [await compare(client, each, template=template) for each in (pairs, injected, harmless)]
                moves = abs(probabilities(moved) - probabilities(clean))
                one_order = [abs(there.p_a_as_given - here.p_a_as_given) for there, here in zip(moved, clean, strict=True)]
                better = np.array([pair.a_is_better for pair in pairs])
                found[marking][template] = {
                    "accuracy": float(((probabilities(clean) > 0.5) == better).mean()),
                    "mean": float(moves.mean()),
                    "max": float(moves.max()),
                    "one_order": sum(one_order) / len(one_order),
                    "control": float(abs(probabilities(control) - probabilities(clean)).mean()),
                    "flipped": float(((probabilities(moved) > 0.5) != better).mean()),
                    "by_text": {each.id: float(moves[place :: len(texts)].mean()) for place, each in enumerate(texts)},
                }
    return found
