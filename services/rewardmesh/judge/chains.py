"""Chains: the ways from questions to verdicts, as many for each question as there are votes, all of which take a step together.

A step renders the next text of each chain, and has the model write on from it or reads its labels. What a hop writes is a variable of the
texts behind it. A chain that loses its text ends with the reason; the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.judge.accounts import Account
from rewardmesh.judge.questions import Item, Question
from rewardmesh.judge.rendering import Text
from rewardmesh.judge.session import Asked, Session, tokenised
from rewardmesh.judge.template import Hop
from rewardmesh.judge.votes import Ballot, Vote, unreadable
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Clean = Callable[[str], str]


@dataclass
class Chain:
    """One way from a question to a verdict.

    Attributes:
        place: where its question stands in the call: (item, question).
        turn: of its item.
        vote: its number, from 0.
        account: of its item.
        texts: what was written so far, by hop.
        ids: tokens of the text that it has come to.
        votes: what it has come to: one, or all that are drawn from one reading.
        problem: why it ends here.
    """

    place: tuple[int, int]
    turn: int
    vote: int
    question: Question
    group: Hashable
    account: Account
    texts: dict[str, str] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)
    problem: pb.Absence | None = None

    def stream(self, ballot: Ballot) -> str:
        """What tells its chances from those of equal questions: without a seed its place, with one nothing but the turn."""
        return str(self.place) if ballot.fresh else str(self.turn)


def chains_of(items: Sequence[Item], accounts: Sequence[Account], votes: int) -> list[Chain]:
    """So many chains for each question of each item, in order."""
    return [
        Chain((row, column), item.turn, vote, question, item.group, account)
        for row, (item, account) in enumerate(zip(items, accounts, strict=True))
        for column, question in enumerate(item.questions)
        for vote in range(votes)
    ]


def going(chains: Iterable[Chain]) -> list[Chain]:
    """Those that have not ended."""
    return [chain for chain in chains if chain.problem is None]


async def prepare(model: ServedModel, chains: Sequence[Chain], text: Text, clean: Clean, *, room: int) -> None:
    """Render and tokenise the next text of each chain, beside the event loop.

    Args:
        clean: breaks up control tokens in what hops wrote.
        room: tokens that must fit behind it.
    """

    def work() -> None:
        known: dict[tuple[object, ...], list[int] | pb.Absence] = {}
        for chain in going(chains):
            key = (chain.place, *chain.texts.items())
            if (ids := known.get(key)) is None:
                rendered = text.render({**chain.question.values, **{hop: clean(written) for hop, written in chain.texts.items()}})
                ids = known[key] = rendered if isinstance(rendered, pb.Absence) else tokenised(model, rendered, room)
            if isinstance(ids, pb.Absence):
                chain.problem = ids
            else:
                chain.ids = ids

    await asyncio.to_thread(work)


async def write(
    session: Session, chains: Sequence[Chain], step: str, options: WritingOptions, ballot: Ballot, *, together: bool, loose: bool = False
) -> list[tuple[Chain, Written]]:
    """A text for each chain that goes on.

    Args:
        step: name of what is written, part of the random streams' identity.
        options: for one text; the seed is the ballot's.
        together: whether the chains of a question all stand at the same text; it is then read once for all of them.
        loose: whether texts that do not follow the grammar are wanted too, where the engine cannot follow it.

    Returns:
        The chains that got one, with it; the others have ended.
    """
    sampled = options.temperature > 0
    live = going(chains)
    shared = together and sampled
    options = replace(options, seed=ballot.seed, n=max((chain.vote for chain in live), default=0) + 1 if shared else 1)
    groups: dict[Hashable, list[Chain]] = {}
    for chain in live:
        # A greedy text is the same for all that stand at the same place of the tree.
        groups.setdefault((chain.place, None if shared else chain.vote if sampled else tuple(chain.ids)), []).append(chain)
    asked = []
    for first, *_ in groups.values():
        stream = f"{step}/{first.stream(ballot)}/{'' if shared else first.vote}"
        asked.append(Asked(first.ids, stream, first.group, first.account))
    found: list[tuple[Chain, Written]] = []
    written = await session.write(asked, options, keep=not sampled or not ballot.fresh, loose=loose)
    for members, texts in zip(groups.values(), written, strict=True):
        for chain in members:
            if isinstance(texts, pb.Absence):
                chain.problem = texts
                continue
            text = texts[chain.vote if shared else 0]
            chain.problem = _lost(text)
            if chain.problem is None:
                found.append((chain, text))
    return found


async def take_hops(session: Session, chains: Sequence[Chain], hops: Sequence[Hop], ballot: Ballot, clean: Clean) -> None:
    """Have all hops written, one after the other; the chains stand at the first one's text."""
    for number, hop in enumerate(hops):
        if number:
            await prepare(session.model, chains, hop.text, clean, room=1)
        options = WritingOptions(temperature=ballot.heat(hop.temperature), max_tokens=hop.max_tokens, grammar=hop.grammar)
        for chain, text in await write(session, chains, hop.name, options, ballot, together=not number):
            if not text.text.strip():
                chain.problem = unreadable(text.text, f"hop {hop.name!r} wrote nothing")
            elif hop.grammar and text.finish == "length":
                chain.problem = unreadable(text.text, f"what hop {hop.name!r} wrote is cut off at {hop.max_tokens} tokens")
            else:
                chain.texts[hop.name] = text.text.strip()


def most_tokens(chains: Sequence[Chain], hops: Sequence[Hop], last_tokens: int, *, texts: int = 1) -> dict[str, int]:
    """The most that chains which stand at their first text can come to read and write, tokens: arguments of `Ledger.reserve`.

    Args:
        last_tokens: written after the hops, all texts together.
        texts: how many there are after the hops.
    """
    written = sum(hop.max_tokens for hop in hops)
    live = going(chains)
    read = sum((len(hops) + texts) * (len(chain.ids) + written + (last_tokens if texts > 1 else 0)) for chain in live)
    return {"tokens_read": read, "tokens_written": len(live) * (written + last_tokens)}


def _lost(text: Written) -> pb.Absence | None:
    if text.finish == "non_finite":
        return absence(pb.ABSENCE_REASON_NON_FINITE, "the model computed NaN or infinity")
    if text.finish == "aborted":
        return absence(pb.ABSENCE_REASON_INFRASTRUCTURE, "the engine gave up in the middle of a text", retryable=True)
    return None
