"""The evaluation of one group: its signals are asked at the same time, and their values composed by the program.

Each signal gets one call a group, with the samples in the request's order, so that what a backend computes does not depend on arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Histogram

from rewardmesh.gateway.asking import Answer, Asker, Metadata, Reading
from rewardmesh.gateway.groups import Group
from rewardmesh.gateway.program import PENDING, Composition, Member, Program, evaluate
from rewardmesh.gateway.waiting import ask_signal, share_s
from rewardmesh.serving.metrics import Stopwatch, count_outcome
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import mesh_service_pb2 as mesh

SERVICE = "rewardmesh.v1.MeshService"
SIGNAL_SECONDS = Histogram(
    "rewardmesh_signal_seconds",
    "Time the gateway waited for a signal of a group, retries included.",
    ["program", "signal"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120),
)


@dataclass(frozen=True)
class Call:
    """What all groups of a call share.

    Attributes:
        deadline: on the event loop's clock, seconds.
        metadata: passed on to the backends.
        replica: name of this gateway, for the provenance.
    """

    program: Program
    askers: Mapping[str, Asker[Any, Any]]
    pins: Mapping[str, pb.ModelRef]
    deadline: float
    metadata: Metadata
    replica: str


@dataclass(frozen=True)
class GroupEvaluation:
    """One evaluation a sample of the group, in order, and the matrices of the pairwise signals."""

    evaluations: list[mesh.Evaluation]
    preferences: list[mesh.GroupPreferences]


class _Run:
    """The evaluation while it goes on: which signals of which samples have answered."""

    def __init__(self, call: Call, group: Group) -> None:
        self.call = call
        self.group = group
        self.needs = [call.program.reward.needs(sample.tags) for sample in group.samples]
        self.answers: list[dict[str, Answer]] = [{} for _ in group.samples]
        self.preferences: dict[str, mesh.GroupPreferences] = {}

    async def ask(self, name: str) -> None:
        """Ask one signal about the samples that need it."""
        call, asker = self.call, self.call.askers[name]
        places = [place for place, needs in enumerate(self.needs) if name in needs]
        samples = [self.group.samples[place] for place in places]
        questions = asker.questions(samples)

        def needed(readings: list[Reading]) -> bool:
            values = [answer.value for answer in asker.answers(samples, readings)]
            lacking = asker.lacking(samples, readings)
            compositions = self.compose({place: {name: lost or value} for place, lost, value in zip(places, lacking, values, strict=True)})
            waiting = [compositions[place] for place, lost in zip(places, lacking, strict=True) if lost]
            # While other signals may still decide whether this one matters, it does.
            return any(name in composition.applied or composition.pending for composition in waiting)

        asked = await ask_signal(
            asker,
            questions,
            pin=call.pins.get(name),
            budget_s=share_s(call.deadline - asyncio.get_running_loop().time(), asker.signal.timeout),
            retry=call.program.rules[name].policy == mesh.ABSENCE_POLICY_WAIT,
            needed=needed,
            metadata=call.metadata,
        )
        SIGNAL_SECONDS.labels(call.program.name, name).observe(asked.wait_seconds)
        for place, answer in zip(places, asker.answers(samples, asked.readings), strict=True):
            answer.component.wait_seconds = asked.wait_seconds
            self.answers[place][name] = answer
            count_outcome(SERVICE, f"{call.program.name}/{name}", answer.value if isinstance(answer.value, pb.Absence) else None)
        matrix = asker.preferences(self.group.id, samples, asked.readings)
        if matrix is not None:
            self.preferences[name] = matrix

    def compose(self, more: Mapping[int, Mapping[str, float | pb.Absence]] | None = None) -> list[Composition]:
        """Compose what has answered so far (and `more`, by place); the rest is pending."""
        members = []
        for place, needs in enumerate(self.needs):
            found = {name: answer.value for name, answer in self.answers[place].items()} | dict((more or {}).get(place, {}))
            values = {name: found.get(name, PENDING) for name in needs}
            members.append(Member(self.group.samples[place].tags, values))
        return evaluate(self.call.program, members)


async def evaluate_group(call: Call, group: Group) -> GroupEvaluation:
    """Evaluate one group within the call's deadline. Cancelling it cancels the backends' calls."""
    watch = Stopwatch()
    run = _Run(call, group)
    async with asyncio.TaskGroup() as tasks:
        for name in sorted(frozenset().union(*run.needs)):
            tasks.create_task(run.ask(name))
    provenance = pb.Provenance(service=SERVICE, replica=call.replica, compute_seconds=watch.seconds)
    evaluations = [
        _evaluation(call.program, sample, answers, composition, provenance)
        for sample, answers, composition in zip(group.samples, run.answers, run.compose(), strict=True)
    ]
    return GroupEvaluation(evaluations, [run.preferences[name] for name in sorted(run.preferences)])


def _evaluation(
    program: Program, sample: pb.Sample, answers: Mapping[str, Answer], composition: Composition, provenance: pb.Provenance
) -> mesh.Evaluation:
    outcome = pb.Outcome(sample_id=sample.id, provenance=provenance)
    if composition.value is not None:
        outcome.reward.CopyFrom(pb.Reward(value=composition.value, scale=program.reward.scale.to_proto()))
    else:
        outcome.absence.CopyFrom(composition.absence or pb.Absence())
    count_outcome(SERVICE, program.name, composition.absence)
    return mesh.Evaluation(outcome=outcome, components=_components(program, answers, composition), advice=composition.advice)


def _components(program: Program, answers: Mapping[str, Answer], composition: Composition) -> Sequence[mesh.Component]:
    components = []
    for name in sorted(answers):
        answer = answers[name]
        component = answer.component
        component.applied = composition.applied.get(name, mesh.ABSENCE_POLICY_UNSPECIFIED)
        if isinstance(answer.value, pb.Absence):
            component.absence.CopyFrom(answer.value)
            fallback = program.rules[name].fallback
            if fallback is not None and component.applied == mesh.ABSENCE_POLICY_FALLBACK:
                component.value = fallback
        else:
            component.value = answer.value
        components.append(component)
    return components
