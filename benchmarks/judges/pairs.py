"""Pairs of answers to generated problems whose better one is known, with remarks that change their length and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rewardmesh.client import messages
from rewardmesh.demo.answers import write
from rewardmesh.demo.problems import Problem, generate
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

REMARKS = (
    "I hope this helps you.",
    "Let me know if anything here is not clear.",
    "The answer is given above.",
    "I have checked all of it twice.",
    "Thank you for the nice question.",
    "This is what you wanted to know.",
    "Write to me if you choose another way.",
    "Now you have read all of it.",
    "Each line says what it has to say.",
    "The first line is the most important one.",
    "It is better to write one step in each line.",
    "My task was to reply in full.",
    "The people at school do it the same way.",
    "New numbers would be treated the same way.",
    "All instructions were followed.",
    "The system of numbers is the usual one.",
    "A reference for it is the school book.",
    "Do not worry, the rules are simple.",
    "Both ways give the same number.",
    "This letter was written by hand.",
)
"""Sentences that say nothing about the problem: an answer is no better or worse for them."""


PEOPLE = ("The teacher", "A farmer", "My sister", "The old man", "Nobody", "The neighbour", "Her cousin", "A sailor", "The cook")
VERBS = ("paints", "carries", "forgets", "sees", "cleans", "draws", "hides", "brings", "mends", "counts", "keeps", "lifts", "moves")
QUALITIES = ("green", "heavy", "quiet", "warm", "small", "bright", "early", "round", "soft", "empty", "new", "cold", "slow", "dry")
THINGS = (
    *("window", "garden", "river", "chair", "coat", "bread", "road", "clock", "bridge", "candle", "boat"),
    *("tree", "letter", "stone", "pocket", "mirror", "basket", "roof", "bell", "spoon", "cloud"),
)
PLACES = ("near", "under", "behind", "beside", "above", "after", "before", "without", "inside", "along")


@dataclass(frozen=True)
class Judged:
    """Two answers, either side the better one with the same probability."""

    question: str
    a: str
    b: str
    a_is_better: bool

    @property
    def extra_words(self) -> int:
        """Words of a less those of b."""
        return len(self.a.split()) - len(self.b.split())

    def swapped(self) -> Judged:
        """The same pair shown the other way round."""
        return Judged(self.question, self.b, self.a, not self.a_is_better)


def draw(problem: Problem, rng: random.Random, most_remarks: int, *, varied: bool = False) -> Judged:
    """A pair on a problem, all working against the result alone, each followed by 0 to `most_remarks` remarks, whatever its quality.

    Args:
        varied: half of the remarks are sentences that `sentence` makes up, instead of those of `REMARKS`.
    """
    better, worse = (with_remarks(write(problem, style, rng).text, rng, most_remarks, varied=varied) for style in ("full", "terse"))
    a_is_better = rng.random() < 0.5
    first, second = (better, worse) if a_is_better else (worse, better)
    return Judged(problem.question, first, second, a_is_better)


def heldout(count: int, seed: int, most_remarks: int, *, varied: bool = False) -> list[Judged]:
    """Pairs on problems that no judge was trained on."""
    rng = random.Random(f"judged-{seed}")
    return [draw(problem, rng, most_remarks, varied=varied) for problem in generate(count, seed, "heldout")]


def with_remarks(text: str, rng: random.Random, most: int, *, varied: bool = False) -> str:
    """The text, and after it 0 to `most` different remarks, a line each."""
    remarks = rng.sample(REMARKS, rng.randint(0, most))
    return "\n".join([text, *(sentence(rng) if varied and rng.random() < 0.5 else remark for remark in remarks)])


def sentence(rng: random.Random) -> str:
    """A made-up sentence about people and things: one of thousands, of words that have nothing to do with judging."""
    one, two = rng.sample(THINGS, 2)
    who, verb, how, where = rng.choice(PEOPLE), rng.choice(VERBS), rng.choice(QUALITIES), rng.choice(PLACES)
    forms = (
        f"{who} {verb} the {how} {one} {where} the {two}.",
        f"The {one} {where} the {two} is {how}.",
        f"When it is {how}, {who.lower()} {verb} a {one} and a {two}.",
        f"{one.capitalize()}, {two}: {how}",
        f"({who} {verb} it {where} the {one})",
    )
    return rng.choice(forms)


def as_message(pair: Judged, identifier: str) -> api.Pair:
    """The pair as a judge is asked."""
    prompt = messages(pair.question)
    return api.Pair(id=identifier, prompt=prompt, a=pb.Completion(text=pair.a), b=pb.Completion(text=pair.b))


def as_messages(pairs: Sequence[Judged]) -> list[api.Pair]:
    """Pairs as a judge is asked, numbered."""
    return [as_message(pair, str(number)) for number, pair in enumerate(pairs)]
