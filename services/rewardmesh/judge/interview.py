"""From items to answers: hops are written, labels are read or verdicts written, votes are gathered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.writing import ChoiceGrammar, Grammar, WritingOptions
from rewardmesh.judge.accounts import Account
from rewardmesh.judge.chains import Chain, Clean, chains_of, going, most_tokens, prepare, take_hops, write
from rewardmesh.judge.labels import LabelTree
from rewardmesh.judge.questions import Item
from rewardmesh.judge.reading import order_grammar, read_order, read_verdict, verdict_grammar
from rewardmesh.judge.session import Asked, Desk, Session
from rewardmesh.judge.template import JudgeTemplate, Scale
from rewardmesh.judge.verdicts import label_probabilities
from rewardmesh.judge.votes import Ballot, Tally, Vote
from rewardmesh.serving.context import CallContext, tenant
from rewardmesh.v1 import common_pb2 as pb

CHOICE_TOKENS = 16
"""Most tokens of a label that is written by itself."""


@dataclass(frozen=True)
class Answer:
    """What came of an item: the votes on each of its questions, or an absence, and what it took.

    Attributes:
        tallies: one a question; empty with an absence.
        unparsable: votes that could not be read, all questions together.
        prompts: see `Item`.
    """

    tallies: tuple[Tally, ...]
    absence: pb.Absence | None
    unparsable: int
    account: Account
    prompts: tuple[str, ...] = ()


class Interview:
    """Puts the items of one call to one version of the model.

    Args:
        trees: label tree of each scale; empty where the verdict is written.
        clean: breaks up control tokens in what hops wrote.
        min_label_mass: see `JudgeConfig`.
    """

    def __init__(
        self,
        desk: Desk,
        model: ServedModel,
        template: JudgeTemplate,
        trees: Mapping[Scale, LabelTree],
        ballot: Ballot,
        clean: Clean,
        min_label_mass: float,
    ) -> None:
        self._desk = desk
        self._model = model
        self._template = template
        self._trees = trees
        self._ballot = ballot
        self._clean = clean
        self._min_label_mass = min_label_mass

    async def ask(self, items: Callable[[], Sequence[Item]], context: CallContext) -> list[Answer]:
        """One answer an item, in order; `items` makes them, beside the event loop."""
        made = await asyncio.to_thread(items)
        accounts = [Account() for _ in made]
        hops, ballot = self._template.hops, self._ballot
        # Where labels are read right away, one reading is what all votes are drawn from.
        chains = chains_of(made, accounts, ballot.chains if hops or not self._trees else 1)
        first = hops[0].text if hops else self._template.text
        await prepare(self._model, chains, first, self._clean, room=1 if hops else self._room)
        with self._desk.ledger.reserve(tenant(context), **most_tokens(chains, hops, self._verdict_tokens)) as bill:
            session = Session(self._desk, self._model, context, bill)
            if hops:
                await take_hops(session, chains, hops, ballot, self._clean)
                await prepare(self._model, chains, self._template.text, self._clean, room=self._room)
            await (self._read(session, chains) if self._trees else self._write(session, chains))
        rows: dict[int, list[Chain]] = {}
        for chain in chains:
            rows.setdefault(chain.place[0], []).append(chain)
        return [self._answer(item, accounts[row], rows.get(row, [])) for row, item in enumerate(made)]

    @property
    def _room(self) -> int:
        """Tokens that must fit behind the last text."""
        deepest = max((len(path) for tree in self._trees.values() for path in tree.paths), default=1)
        return deepest - 1 if self._trees else 1

    @property
    def _verdict_tokens(self) -> int:
        return max((len(tree.nodes) for tree in self._trees.values()), default=self._template.max_tokens)

    async def _read(self, session: Session, chains: Sequence[Chain]) -> None:
        """Each chain's votes are its label probabilities, or draws from them."""
        live = going(chains)
        asked = [(Asked(chain.ids, "", chain.group, chain.account), self._trees[chain.question.scale]) for chain in live]
        for chain, log_probs in zip(live, await session.read(asked), strict=True):
            chances = log_probs if isinstance(log_probs, pb.Absence) else label_probabilities(log_probs, self._min_label_mass)
            if isinstance(chances, pb.Absence):
                chain.problem = chances
            elif self._template.hops or not self._ballot.votes:
                chain.votes = [Vote(chances, tuple(chain.texts.values()))]
            else:
                drawn = [self._ballot.draw(chances, chain.ids, chain.stream(self._ballot), vote) for vote in range(self._ballot.votes)]
                chain.votes = [Vote(tuple(float(i == label) for i in range(len(chances)))) for label in drawn]

    async def _write(self, session: Session, chains: Sequence[Chain]) -> None:
        """Each chain's vote is the verdict that it writes."""
        ranks = self._template.kind == "rank" and self._template.written
        for scale in dict.fromkeys(chain.question.scale for chain in chains):
            options = WritingOptions(
                temperature=self._ballot.heat(None),
                max_tokens=self._template.max_tokens if self._template.written else CHOICE_TOKENS,
                grammar=self._grammar(scale),
            )
            asked = [chain for chain in chains if chain.question.scale == scale]
            together = not self._template.hops
            for chain, text in await write(session, asked, "verdict", options, self._ballot, together=together, loose=True):
                vote = (read_order if ranks else read_verdict)(text.text, scale.words, tuple(chain.texts.values()))
                if isinstance(vote, pb.Absence):
                    chain.problem = vote
                else:
                    chain.votes = [vote]

    def _grammar(self, scale: Scale) -> Grammar:
        if not self._template.written:
            return ChoiceGrammar(scale.words)
        return (
            order_grammar(scale.words) if self._template.kind == "rank" else verdict_grammar(scale.words, strength=self._template.strength)
        )

    def _answer(self, item: Item, account: Account, chains: Sequence[Chain]) -> Answer:
        problems = [chain.problem for chain in chains if chain.problem]
        unreadable = [problem for problem in problems if problem.reason == pb.ABSENCE_REASON_UNPARSABLE]
        # A vote that cannot be read is not counted; one that is lost otherwise may be there when the item is asked again.
        lost = item.problem or next((problem for problem in problems if problem.reason != pb.ABSENCE_REASON_UNPARSABLE), None)
        gathered = [[vote for chain in chains if chain.place[1] == column for vote in chain.votes] for column in range(len(item.questions))]
        if not lost and not all(gathered):
            lost = unreadable[0]
        tallies = () if lost else tuple(Tally(tuple(votes), counted=self._counted) for votes in gathered)
        return Answer(tallies, lost, len(unreadable), account, item.prompts)

    @property
    def _counted(self) -> bool:
        """Whether a verdict is a vote: something was left to chance, or it was written."""
        sampled = any(self._ballot.heat(hop.temperature) > 0 for hop in self._template.hops)
        return self._ballot.votes > 0 or sampled or not self._trees
