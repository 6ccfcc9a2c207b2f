"""Critique: what a judge says of an answer in words, tied to parts of it, with a revision and whether that is better.

Text2Grad (Wang et al. 2025, arXiv 2505.22338) and DRLC (Cao et al. 2024, arXiv 2401.07382) learn from such spans; that a critic invents
faults is why points must quote, and why a revision can be compared with its original (CriticGPT: McAleese et al. 2024, arXiv 2407.00215).
Offsets are code points of the completion; the trainer, which has the policy's tokenizer, finds the tokens.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rewardmesh.engine.writing import WritingOptions
from rewardmesh.judge.accounts import Account
from rewardmesh.judge.bench import SERVICE, Bench, Sitting
from rewardmesh.judge.chains import Chain, chains_of, most_tokens, prepare, take_hops, write
from rewardmesh.judge.interview import Answer
from rewardmesh.judge.points import Remarks, read_remarks, remarks_grammar
from rewardmesh.judge.questions import Item, Writer
from rewardmesh.judge.quotes import without_marks
from rewardmesh.judge.session import Session
from rewardmesh.judge.verdicts import preference
from rewardmesh.judge.votes import Ballot, ballot, unreadable
from rewardmesh.serving.context import CallContext, tenant
from rewardmesh.serving.errors import failed_precondition, invalid_argument
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api

DEFAULT_POINTS, MOST_POINTS = 8, 64


@dataclass
class _Draft:
    """What has come of one sample so far."""

    sample: pb.Sample
    account: Account
    lost: pb.Absence | None
    prompts: tuple[str, ...]
    critique: api.Critique
    comparison: Account | None = None


async def critique(bench: Bench, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
    """One outcome a sample, in order."""
    require_unique_ids((sample.id for sample in request.samples), "samples")
    votes = _ballot(request)
    points = _max_points(request)
    if request.compare_revision and not request.want_revision:
        raise invalid_argument("compare_revision", "needs want_revision: there is nothing to compare the answer with")
    template = bench.library.get("critique", request.template)
    if request.want_revision and template.revision is None:
        raise failed_precondition(f"template {template.name!r} has no revision text; take one that has, such as critique")
    against = bench.library.get("compare", request.compare_template) if request.compare_revision else None
    more = (against.fingerprint,) if against else ()
    prompts = [(*bench.library.constitutions.prompts(sample.context.principles), *more) for sample in request.samples]
    sitting = bench.sit(request.model, template, prompts)
    # Whatever is wrong with the comparison is said before anything is written.
    second = bench.sit(pb.ModelRef(version=sitting.model.version), against) if against else None
    drafts = await _write(sitting, request, votes, points, context)
    if second:
        await _compare(second, drafts, votes, context)
    outcomes = []
    for draft in drafts:
        accounts = [draft.account, *([draft.comparison] if draft.comparison else [])]
        outcome = api.CritiqueOutcome(sample_id=draft.sample.id, provenance=sitting.provenance(accounts, (*draft.prompts, *more)))
        if draft.lost:
            outcome.absence.CopyFrom(draft.lost)
        else:
            outcome.critique.CopyFrom(draft.critique)
        count_outcome(SERVICE, sitting.model.name, draft.lost)
        outcomes.append(outcome)
    return api.CritiqueResponse(outcomes=outcomes)


async def _write(sitting: Sitting, request: api.CritiqueRequest, votes: Ballot, max_points: int, context: CallContext) -> list[_Draft]:
    """The critique of each sample, and its revision where that is wanted."""
    bench, template, model = sitting.bench, sitting.template, sitting.model
    bench.desk.check(context)
    writer = sitting.writer
    items = await asyncio.to_thread(lambda: [writer.critique(sample, max_points) for sample in request.samples])
    accounts = [Account() for _ in items]
    chains = chains_of(items, accounts, 1)
    own = {chain.place[0]: chain for chain in chains}
    hops = template.hops
    await prepare(model, chains, hops[0].text if hops else template.text, sitting.clean, room=1)
    texts = 2 if request.want_revision else 1
    with bench.desk.ledger.reserve(tenant(context), **most_tokens(chains, hops, texts * template.max_tokens, texts=texts)) as bill:
        session = Session(bench.desk, model, context, bill)
        if hops:
            await take_hops(session, chains, hops, votes, sitting.clean)
            await prepare(model, chains, template.text, sitting.clean, room=1)
        grammar = None if template.lines else remarks_grammar(max_points)
        options = WritingOptions(temperature=votes.heat(None), max_tokens=template.max_tokens, grammar=grammar)
        remarks: dict[int, Remarks] = {}
        for chain, text in await write(session, chains, "critique", options, votes, together=not hops, loose=True):
            read = read_remarks(text, max_points, lines=template.lines)
            if isinstance(read, pb.Absence):
                chain.problem = read
            else:
                remarks[chain.place[0]] = read
                chain.texts["critique"] = read.text
        revisions = await _revise(session, sitting, chains, votes) if request.want_revision else {}

    def drafts() -> list[_Draft]:
        """Slow where texts are long: quotes are looked for."""
        made = []
        for row, (sample, item, account) in enumerate(zip(request.samples, items, accounts, strict=True)):
            chain = own.get(row)
            lost = item.problem or (chain.problem if chain else None)
            found = api.Critique() if lost else _critique(remarks[row], sample.completion.text, sitting)
            if row in revisions and not lost:
                found.revised_completion.CopyFrom(revisions[row])
            made.append(_Draft(sample, account, lost, item.prompts, found))
        return made

    return await asyncio.to_thread(drafts)


async def _revise(session: Session, sitting: Sitting, chains: Sequence[Chain], votes: Ballot) -> dict[int, pb.Completion]:
    """The revised completion of each sample, by its place; one that is cut off is none."""
    template = sitting.template
    if template.revision is None:  # refused before
        return {}
    await prepare(sitting.model, chains, template.revision, sitting.clean, room=1)
    options = WritingOptions(temperature=votes.heat(None), max_tokens=template.max_tokens)
    found: dict[int, pb.Completion] = {}
    for chain, text in await write(session, chains, "revision", options, votes, together=False):
        if text.finish == "length":
            chain.problem = unreadable(
                text.text, f"the revision is cut off at {template.max_tokens} tokens; raise the template's max_tokens"
            )
        elif not text.text.strip():
            chain.problem = unreadable(text.text, "the revision is empty")
        else:
            plain = without_marks(text.text.strip(), template.marking)
            found[chain.place[0]] = pb.Completion(text=plain, finish_reason=pb.FINISH_REASON_STOP)
    return found


async def _compare(second: Sitting, drafts: Sequence[_Draft], votes: Ballot, context: CallContext) -> None:
    """Whether each revision is better than its original, in both orders, by label probabilities."""
    revised = [draft for draft in drafts if not draft.lost]

    def items(writer: Writer) -> list[Item]:
        return [
            writer.pair(
                draft.sample.prompt,
                draft.critique.revised_completion.text,
                draft.sample.completion.text,
                draft.sample.references,
                draft.sample.context,
                both_orders=True,
            )
            for draft in revised
        ]

    answers: list[Answer] = await second.ask(items, Ballot(0, 0.0, votes.seed, votes.fresh), context)
    for draft, answer in zip(revised, answers, strict=True):
        draft.comparison = answer.account
        draft.lost = answer.absence
        if not answer.absence:
            draft.critique.revision_preference.CopyFrom(preference(*answer.tallies, unparsable=answer.unparsable))


def _critique(remarks: Remarks, completion: str, sitting: Sitting) -> api.Critique:
    spans = remarks.spans(completion, sitting.template.marking)
    return api.Critique(text=remarks.text, spans=spans, unplaced_points=len(remarks.points) - len(spans))


def _ballot(request: api.CritiqueRequest) -> Ballot:
    """A critique is one vote when it is sampled, none when it is greedy."""
    if not 0 <= request.temperature < math.inf:
        raise invalid_argument("temperature", f"must be at least 0 and finite, is {request.temperature}")
    return ballot(int(request.temperature > 0), request.temperature, request.seed)


def _max_points(request: api.CritiqueRequest) -> int:
    if not 0 <= request.max_points <= MOST_POINTS:
        raise invalid_argument("max_points", f"must lie between 1 and {MOST_POINTS} (0 for {DEFAULT_POINTS}), is {request.max_points}")
    return request.max_points or DEFAULT_POINTS
