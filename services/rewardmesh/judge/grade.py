"""Grade: scores of an answer, one for each criterion of a rubric, of a checklist, or for each principle."""

from __future__ import annotations

import math

from rewardmesh.judge.bench import SERVICE, Bench
from rewardmesh.judge.constitutions import Constitutions
from rewardmesh.judge.questions import Item, Writer
from rewardmesh.judge.template import Criterion, JudgeTemplate
from rewardmesh.judge.verdicts import grades
from rewardmesh.judge.votes import ballot
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api


async def grade(bench: Bench, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
    """One outcome a sample, in order. A rubric is the name of a grade template; its own criteria come before the sample's."""
    require_unique_ids((sample.id for sample in request.samples), "samples")
    votes = ballot(request.votes, request.temperature, request.seed)
    template = bench.library.get("grade", request.rubric, reasons=request.want_rationale)
    prompts = [bench.library.constitutions.prompts(sample.context.principles) for sample in request.samples]
    sitting = bench.sit(request.model, template, prompts)
    wanted = [criteria_of(template, sample.context, bench.library.constitutions) for sample in request.samples]

    def items(writer: Writer) -> list[Item]:
        return [
            Item((), problem=criteria) if isinstance(criteria, pb.Absence) else writer.sample(sample, criteria)
            for sample, criteria in zip(request.samples, wanted, strict=True)
        ]

    outcomes = []
    answers = await sitting.ask(items, votes, context)
    for sample, criteria, answer in zip(request.samples, wanted, answers, strict=True):
        outcome = api.GradesOutcome(sample_id=sample.id, provenance=sitting.provenance([answer.account], answer.prompts))
        if answer.absence:
            outcome.absence.CopyFrom(answer.absence)
        elif not isinstance(criteria, pb.Absence):
            outcome.grades.CopyFrom(
                grades(template, criteria, answer.tallies, unparsable=answer.unparsable, want_rationale=request.want_rationale)
            )
        count_outcome(SERVICE, sitting.model.name, answer.absence)
        outcomes.append(outcome)
    return api.GradeResponse(outcomes=outcomes)


def criteria_of(template: JudgeTemplate, context: pb.Context, constitutions: Constitutions) -> list[Criterion] | pb.Absence:
    """What a sample is graded by: the rubric's criteria and the sample's, or its principles."""
    if template.per_principle:
        return _principles(template, context, constitutions)
    if not template.per_criterion:
        return [Criterion(template.name, "")]
    found = {criterion.id: criterion for criterion in template.criteria}
    for index, given in enumerate(context.criteria):
        field = f"context.criteria[{index}]"
        if not given.id or given.id in found:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.id: {given.id!r} is empty or taken")
        if not given.text:
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.text: is empty")
        if given.weight < 0 or not math.isfinite(given.weight):
            return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"{field}.weight: must be greater than 0, or 0 for 1; is {given.weight}")
        found[given.id] = Criterion(given.id, given.text, given.weight or 1.0)
    if not found:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"context.criteria: has none, and neither has rubric {template.name!r}")
    return list(found.values())


def _principles(template: JudgeTemplate, context: pb.Context, constitutions: Constitutions) -> list[Criterion] | pb.Absence:
    given = constitutions.resolve(context.principles)
    if isinstance(given, pb.Absence):
        return given
    principles = [*template.principles, *given[0]]
    if not principles:
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, f"context.principles: has none, and neither has rubric {template.name!r}")
    if len({principle.id for principle in principles}) != len(principles):
        return absence(pb.ABSENCE_REASON_INVALID_INPUT, "context.principles: names a constitution twice, or two that share an id")
    return principles
