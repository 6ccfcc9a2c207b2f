"""Has samples checked: whole groups together where the verifier judges groups, a few hundred a call otherwise."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.verifier.settings import VerifierSettings
from rewardmesh.client import AsyncClient, Verdict
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.verifier_service_pb2 import VerifierInfo

CHUNK = 200
OnProgress = Callable[[str, int, int], None]
"""Called with (check, samples answered, samples asked for so far)."""


class Checker:
    """Samples to one verifier, with account of what is absent."""

    def __init__(self, client: AsyncClient, info: VerifierInfo, settings: VerifierSettings, on_progress: OnProgress) -> None:
        self.info = info
        self.settings = settings
        self._client = client
        self._on_progress = on_progress
        self.begin("")

    def begin(self, check: str) -> None:
        """Count anew, for the next check."""
        self._check = check
        self._answered = 0
        self.asked = 0
        self.absent: Counter[str] = Counter()
        self.details: dict[str, str] = {}

    async def verify(self, samples: Sequence[Sample], *, chunk: int = CHUNK) -> list[Verdict]:
        """One verdict or absence a sample, in order.

        Raises:
            CallFailed: the request is wrong, such as an option.
        """
        self.asked += len(samples)
        found: list[Verdict] = []
        for part in _parts(samples, chunk, whole_groups=self.info.groups):
            verdicts = await self._client.verify(part, self.info.name, options=self.settings.options)
            self._count(verdicts)
            found += verdicts
        return found

    async def stream(self, samples: Sequence[Sample]) -> list[Verdict]:
        """The same through StreamVerify, in any order."""
        self.asked += len(samples)
        found = [each async for each in self._client.stream_verify(samples, self.info.name, options=self.settings.options)]
        self._count(found)
        return found

    def _count(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self._answered += 1
            if verdict.absence:
                self.absent[str(verdict.absence.reason)] += 1
                self.details.setdefault(str(verdict.absence.reason), verdict.absence.detail)
        self._on_progress(self._check, self._answered, self.asked)


async def find(client: AsyncClient, name: str) -> VerifierInfo:
    """What the server says about a verifier.

    Raises:
        AuditError: it has none of that name.
        CallFailed: the server cannot be reached.
    """
    known = {info.name: info for info in await client.list_verifiers()}
    if name not in known:
        raise AuditError(f"verifier: {name!r} is unknown; the server has {', '.join(known) or 'none'}")
    return known[name]


def _parts(samples: Sequence[Sample], size: int, *, whole_groups: bool) -> Iterator[list[Sample]]:
    """Chunks of at most `size`; with `whole_groups` the samples of one group id, which are adjacent, stay together.

    Raises:
        AuditError: a group larger than a chunk.
    """
    part: list[Sample] = []
    for group_id, members in itertools.groupby(samples, lambda sample: sample.group_id if whole_groups else ""):
        group = list(members)
        if not group_id:
            for sample in group:
                part.append(sample)
                if len(part) == size:
                    yield part
                    part = []
            continue
        if len(group) > size:
            raise AuditError(f"group {group_id!r} has {len(group)} answers; the verifier judges groups, and one call takes {size}")
        if len(part) + len(group) > size:
            yield part
            part = []
        part += group
    if part:
        yield part
