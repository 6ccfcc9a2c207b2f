"""Requests, checked and cut into groups: the unit that is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rewardmesh.gateway.program import JudgeSignal, Program, RewardSignal
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.v1 import common_pb2 as pb


@dataclass(frozen=True)
class Group:
    """Samples that answer one prompt, with their places in the request."""

    id: str
    samples: list[pb.Sample]
    places: list[int]


def cut_groups(samples: Sequence[pb.Sample]) -> list[Group]:
    """Groups in the order of their first sample; a sample without group id is a group of its own.

    Raises:
        CallError: INVALID_ARGUMENT when samples of one group have different prompts.
    """
    groups: dict[tuple[str, int], Group] = {}
    for place, sample in enumerate(samples):
        key = (sample.group_id, -1) if sample.group_id else ("", place)
        group = groups.setdefault(key, Group(sample.group_id, [], []))
        if group.samples and sample.prompt != group.samples[0].prompt:
            raise invalid_argument(f"samples[{place}].prompt", f"differs from that of its group {sample.group_id!r}")
        group.samples.append(sample)
        group.places.append(place)
    return list(groups.values())


def check_pins(program: Program, pins: Mapping[str, pb.ModelRef]) -> None:
    """Refuse pins of signals that the program has not, of verifiers (they have no model), and of another model than the signal's.

    Raises:
        CallError: INVALID_ARGUMENT naming the pin.
    """
    for name in sorted(pins):
        field = f"options.pins[{name}]"
        if name not in program.signals:
            raise invalid_argument(field, f"program {program.name!r} has no such signal (has: {', '.join(program.signals)})")
        signal = program.signals[name]
        if not isinstance(signal, (RewardSignal, JudgeSignal)):
            raise invalid_argument(field, f"a {signal.kind} has no model to pin")
        model = signal.model if isinstance(signal, JudgeSignal) else signal.reward
        if pins[name].name and model and pins[name].name != model:
            raise invalid_argument(f"{field}.name", f"the signal asks {model!r}, not {pins[name].name!r}")
        if pins[name].version < 0:
            raise invalid_argument(f"{field}.version", "must not be negative")


class StreamGroups:
    """Checks that every group of a stream comes whole, and that ids are unique within the stream."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._groups: set[str] = set()

    def add(self, samples: Iterable[pb.Sample]) -> list[Group]:
        """Groups of one message. Raises CallError: INVALID_ARGUMENT."""
        samples = list(samples)
        groups = cut_groups(samples)
        for place, sample in enumerate(samples):
            if not sample.id:
                raise invalid_argument(f"samples[{place}].id", "must not be empty")
            if sample.id in self._ids:
                raise invalid_argument(f"samples[{place}].id", f"{sample.id!r} was already sent; ids must be unique in a stream")
            self._ids.add(sample.id)
        for group in groups:
            if group.id and group.id in self._groups:
                raise invalid_argument("samples", f"group {group.id!r} was already sent; a group must come whole in one message")
            self._groups.add(group.id)
        return groups
