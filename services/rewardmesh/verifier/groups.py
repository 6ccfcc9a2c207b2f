"""Samples that are judged together: those of a call, or of a message of a stream, that have the same group_id.

A group is one item for the line: one worker judges it, and the limits of an item hold for all of it. A sample that cannot be read has
its own absence, and the others of its group are judged without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from rewardmesh.serving.errors import invalid_argument
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as verifier_pb
from rewardmesh.verifier.inline import SLICE_ITEMS, SLICE_S
from rewardmesh.verifier.jobs import Job, late
from rewardmesh.verifier.reading import read_sample
from rewardmesh.verifier.registry import Verifier
from rewardmesh.verifier.stream import REPLY_CHARACTERS, VerifyStream, kept
from rewardmesh.verifier.verdicts import Group, SampleFields, Work

Key = TypeVar("Key", int, str)


def gathered(verifier: Verifier, samples: Sequence[tuple[Key, SampleFields]]) -> list[tuple[tuple[Key, ...], Work]]:
    """What waits in the line, with the keys of its samples: each sample, or for a verifier that judges groups each group."""
    if verifier.verify_group is None:
        return [((key,), sample) for key, sample in samples]
    groups: dict[str | tuple[Key], list[tuple[Key, SampleFields]]] = {}
    for key, sample in samples:
        groups.setdefault(sample.more.group_id or (key,), []).append((key, sample))
    return [(tuple(key for key, _ in group), Group(tuple(sample for _, sample in group))) for group in groups.values()]


class GroupStream(VerifyStream):
    """A stream whose groups come whole, each in one message."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._groups: set[str | bytes] = set()
        """Group ids of earlier messages; there are no more of them than of sample ids, whose number has a bound."""

    def _accept(self, samples: Sequence[pb.Sample]) -> None:
        places: dict[str | int, int] = {}
        order = [places.setdefault(sample.group_id or place, place) for place, sample in enumerate(samples)]
        super()._accept([samples[place] for place in sorted(range(len(samples)), key=order.__getitem__)])
        brought = {kept(sample.group_id) for sample in samples if sample.group_id}
        if not self._groups.isdisjoint(brought):
            place = next(place for place, sample in enumerate(samples) if kept(sample.group_id) in self._groups)
            rule = "came in an earlier message; this verifier judges groups, and a group must come whole, in one message of a stream"
            raise invalid_argument(f"samples[{place}].group_id", f"{samples[place].group_id[:200]!r} {rule}")
        self._groups |= brought

    def _advance(self, job: Job) -> verifier_pb.StreamVerifyResponse:
        """Begin groups of the backlog, as many as there is room and time for; one is begun when nothing else is held, whatever its size."""
        reply = verifier_pb.StreamVerifyResponse()
        began, expired = time.monotonic(), job.expired
        characters = 0
        while self._backlog and len(reply.outcomes) < SLICE_ITEMS and characters < REPLY_CHARACTERS and time.monotonic() - began < SLICE_S:
            size = self._first_group()
            held = self._in_flight - len(self._backlog) - len(reply.outcomes)
            if self._pool.room < 1 or (held and held + size > self._limits.window_items):
                break
            readable: list[tuple[str, SampleFields]] = []
            for sample_id, sample in (self._backlog.popleft() for _ in range(size)):
                fields = read_sample(sample, self._verifier, self._limits.max_text_bytes)
                if isinstance(fields, pb.Absence) or expired:
                    absence = fields if isinstance(fields, pb.Absence) else late()
                    self._writer.write(reply.outcomes, sample_id, absence, began - self._came)
                    characters += len(absence.detail)
                else:
                    readable.append((sample_id, fields))
            self._pool.add(job, gathered(self._verifier, readable))
        return self._written(reply)

    def _first_group(self) -> int:
        """Number of samples at the head of the backlog that are one group."""
        group_id = self._backlog[0][1].group_id
        if not group_id:
            return 1
        return next((place for place, (_, sample) in enumerate(self._backlog) if sample.group_id != group_id), len(self._backlog))
