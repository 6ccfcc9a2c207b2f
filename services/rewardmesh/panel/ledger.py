"""Where the verdicts of one call came from: each item is charged with all that members did for it, and the panel has one fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rewardmesh.v1 import common_pb2 as pb

SERVICE = "rewardmesh.v1.JudgeService"
_MOST_ASKED = 1024


@dataclass
class Ledger:
    """What members answered with, by the panel's own item."""

    entries: dict[str, list[pb.Provenance]] = field(default_factory=dict)

    def add(self, item: str, provenance: pb.Provenance) -> None:
        """Charge an item."""
        self.entries.setdefault(item, []).append(provenance)

    def provenance(self, item: str, model: pb.ModelRef, replica: str) -> pb.Provenance:
        """Sums of tokens and costs, the longest times; cached when all that was asked for it was."""
        parts = self.entries.get(item, [])
        found = pb.Provenance(
            service=SERVICE,
            model=model,
            replica=replica,
            cached=bool(parts) and all(part.cached for part in parts),
            queue_seconds=max((part.queue_seconds for part in parts), default=0.0),
            compute_seconds=max((part.compute_seconds for part in parts), default=0.0),
            tokens_read=sum(part.tokens_read for part in parts),
            tokens_computed=sum(part.tokens_computed for part in parts),
            tokens_written=sum(part.tokens_written for part in parts),
            truncated=any(part.truncated for part in parts),
        )
        costs = [part.cost_usd for part in parts if part.HasField("cost_usd")]
        if costs:
            found.cost_usd = sum(costs)
        return found


class Identity:
    """The fingerprint of a panel: of its file, and of what its members last answered with for the same method and template.

    A member that has not answered yet counts as unknown, so the fingerprint of a cascade changes once, when a dear judge is first heard.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._known: dict[str, dict[str, str]] = {}

    def note(self, asked: str, member: str, model: pb.ModelRef) -> None:
        """Remember which model answered for a member; `asked` names the method and template of the panel's own call."""
        known = self._known.pop(asked, {})
        self._known[asked] = known | {member: model.fingerprint}
        if len(self._known) > _MOST_ASKED:  # callers may name any template where members have their own
            del self._known[next(iter(self._known))]

    def fingerprint(self, asked: str) -> str:
        """16 hex characters."""
        return digest_of([self._digest, self._known.get(asked, {})])


def digest_of(content: Sequence[str | Mapping[str, str]] | Mapping[str, object]) -> str:
    """Hash (hex, 16 characters) of plain values, the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
