"""Compare: which of two answers is better, in both orders unless told otherwise."""

from __future__ import annotations

from rewardmesh.judge.bench import SERVICE, Bench
from rewardmesh.judge.questions import Item, Writer
from rewardmesh.judge.verdicts import preference, rationale
from rewardmesh.judge.votes import ballot
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import require_unique_ids
from rewardmesh.v1 import judge_service_pb2 as api


async def compare(bench: Bench, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
    """One outcome a pair, in order."""
    require_unique_ids((pair.id for pair in request.pairs), "pairs")
    votes = ballot(request.votes, request.temperature, request.seed)
    if request.orders not in api.CompareOrders.values():
        raise invalid_argument("orders", f"unknown value {request.orders}")
    both = request.orders != api.COMPARE_ORDERS_AS_GIVEN
    template = bench.library.get("compare", request.template, reasons=request.want_rationale)
    prompts = [bench.library.constitutions.prompts(pair.context.principles) for pair in request.pairs]
    sitting = bench.sit(request.model, template, prompts)

    def items(writer: Writer) -> list[Item]:
        return [writer.pair(p.prompt, p.a.text, p.b.text, p.references, p.context, both_orders=both) for p in request.pairs]

    outcomes = []
    for pair, answer in zip(request.pairs, await sitting.ask(items, votes, context), strict=True):
        outcome = api.PreferenceOutcome(pair_id=pair.id, provenance=sitting.provenance([answer.account], answer.prompts))
        if answer.absence:
            outcome.absence.CopyFrom(answer.absence)
        else:
            outcome.preference.CopyFrom(preference(*answer.tallies, unparsable=answer.unparsable))
            if request.want_rationale:
                outcome.preference.rationales.extend(rationale(vote, template.hops) for tally in answer.tallies for vote in tally.votes)
        count_outcome(SERVICE, sitting.model.name, answer.absence)
        outcomes.append(outcome)
    return api.CompareResponse(outcomes=outcomes)
