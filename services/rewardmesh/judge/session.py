"""One call's way to the model: questions whose labels are read, prompts that are written on from, what they took and what they cost."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.text import fit, prompt_ids
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.judge.accounts import Account
from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.labels import LabelTree
from rewardmesh.judge.texts import Prompt, WrittenCodec, text_work, write_texts
from rewardmesh.serving.batching import Batcher, BatcherOptions, Done, Work
from rewardmesh.serving.caching import CachingBatcher, FloatsCodec
from rewardmesh.serving.context import CallContext, priority, remaining_s, tenant
from rewardmesh.serving.spending import Bill, Ledger
from rewardmesh.v1 import common_pb2 as pb

Payload = tuple[Sequence[int], tuple[int, ...]]
"""Token ids of a question, and the tokens of its labels."""


class _Terms(TypedDict):
    priority: int
    timeout_s: float | None
    tenant: str


@dataclass(frozen=True)
class Asked:
    """A text put to the model.

    Attributes:
        place: what tells its random stream from those of equal prompts.
        group: texts of one prompt are computed together.
        account: takes what it costs.
    """

    ids: list[int]
    place: str
    group: Hashable
    account: Account


class Desk:
    """The queues in front of one service's models, with their caches and the ledger; must be made inside a running event loop."""

    def __init__(self, config: JudgeConfig, service: str) -> None:
        options = config.batching()
        labels: Batcher[Payload, list[float]] = Batcher(read_labels, service=service, **options)
        # Writing holds a thread for as long as its longest text: readings must not wait for it.
        writing = f"{service}/write"
        one: BatcherOptions = {**options, "workers": 1}
        texts: Batcher[Prompt, list[Written]] = Batcher(write_texts, service=writing, **one)
        invariant = config.batch_invariant
        kept = config.caching()
        kept = replace(kept, memory_bytes=kept.memory_bytes // 2)
        self.service = service
        self.ledger: Ledger = config.ledger(service)
        self.labels = CachingBatcher(labels, FloatsCodec(), kept, service=service, batch_invariant=invariant)
        self.texts = CachingBatcher(texts, WrittenCodec(), kept, service=writing, batch_invariant=invariant)

    def load(self) -> tuple[int, float]:
        """See `Batcher.load`."""
        (read, read_s), (written, written_s) = self.labels.load(), self.texts.load()
        return read + written, max(read_s, written_s)

    def check(self, context: CallContext) -> None:
        """Refuse now a call that would be refused whatever it brings."""
        self.labels.check(priority=priority(context), timeout_s=remaining_s(context), tenant=tenant(context))

    async def close(self) -> None:
        """See `Batcher.close`."""
        await self.labels.close()
        await self.texts.close()


class Session:
    """Asks one version of the model on behalf of one call.

    Args:
        bill: what was set aside for the call.
    """

    def __init__(self, desk: Desk, model: ServedModel, context: CallContext, bill: Bill) -> None:
        self._desk = desk
        self._context = context
        self._bill = bill
        self.model = model

    async def read(self, asked: Sequence[tuple[Asked, LabelTree]]) -> list[list[float] | pb.Absence]:
        """Log-probabilities (nats) of each question's words over the whole vocabulary, or why there are none."""
        works = label_works(self._desk.service, self.model, asked)
        done = iter(await self._desk.labels.submit(works, **self._terms()))
        found: list[list[float] | pb.Absence] = []
        for each, tree in asked:
            nodes = list(itertools.islice(done, len(tree.nodes)))
            each.account.add(nodes)
            each.account.tokens_read += len(each.ids)
            computed = [node for node in nodes if not node.cached and node.absence is None]
            if computed:
                billed = sum(node.tokens_computed for node in computed) if self.model.bills else 0
                read = billed or len(computed) * len(each.ids)
                each.account.charge(self._bill, self.model.name, read=read, written=len(computed))
            lost = next((node.absence for node in nodes if node.absence), None)
            found.append(lost or tree.log_probs([node.result or [] for node in nodes]))
        return found

    async def write(self, asked: Sequence[Asked], options: WritingOptions, *, keep: bool, loose: bool) -> list[list[Written] | pb.Absence]:
        """`options.n` texts for each prompt, or why there are none; `keep` and `loose` as in `text_work`."""
        service = self._desk.service
        works = [text_work(service, self.model, options, each.ids, each.place, each.group, keep=keep, loose=loose) for each in asked]
        done = await self._desk.texts.submit(works, **self._terms())
        return [self._written(each, one) for each, one in zip(asked, done, strict=True)]

    def _written(self, asked: Asked, done: Done[list[Written]]) -> list[Written] | pb.Absence:
        account = asked.account
        account.add([done])
        texts = done.result or []
        read, written = sum(text.tokens_read for text in texts), sum(text.tokens_written for text in texts)
        account.tokens_read += read or len(asked.ids)
        account.tokens_written += written
        if texts and not done.cached:
            account.charge(self._bill, self.model.name, read=read, written=written)
        return done.absence or texts

    def _terms(self) -> _Terms:
        return {"priority": priority(self._context), "timeout_s": remaining_s(self._context), "tenant": tenant(self._context)}


def tokenised(model: ServedModel, text: str, room: int) -> list[int] | pb.Absence:
    """Token ids of a text as one message of a user, with room for so many tokens behind it. Never cut: half an answer gets another
    verdict."""
    ids = prompt_ids(model.tokenizer, [pb.Message(role=pb.ROLE_USER, content=text)])
    fitted = fit(ids, model.max_tokens - room, "refuse")
    return fitted if isinstance(fitted, pb.Absence) else fitted[0]


def label_works(service: str, model: ServedModel, asked: Sequence[tuple[Asked, LabelTree]]) -> list[Work[Payload]]:
    """One work item a node of each question's tree, in order. A probability is computed, not sampled: its key has no sample index."""
    questions = [(each.group, [*each.ids, *prefix], tokens) for each, tree in asked for prefix, tokens in tree.nodes]
    members: dict[Hashable, list[list[int]]] = {}
    for group, ids, _ in questions:
        members.setdefault(group, []).append(ids)
    shared = {group: model.shareable(shared_tokens(ids)) for group, ids in members.items()}
    keys = {tokens: model_keys(service, model, "label_log_probs", labels=tokens) for tokens in {tokens for _, _, tokens in questions}}
    return [
        Work((ids, tokens), lane=model, group=group, tokens=len(ids), shared_tokens=shared[group], key=keys[tokens].key(ids))
        for group, ids, tokens in questions
    ]


def read_labels(lane: Hashable, payloads: Sequence[Payload]) -> list[tuple[list[float], int]]:
    """Log-probabilities (nats) of each question's labels, and the tokens computed for it; runs on the engine's thread."""
    return cast(ServedModel, lane).label_log_probs(payloads)


def shared_tokens(members: Sequence[list[int]]) -> int:
    """Length of the prefix that all share."""
    if len(members) < 2:
        return 0
    # What the least and the greatest share, all share.
    pairs = zip(min(members), max(members), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
