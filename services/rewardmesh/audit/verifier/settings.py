"""How a verifier is audited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rewardmesh.audit.errors import AuditError

EditSet = Literal["auto", "math", "none"]


@dataclass(frozen=True)
class VerifierSettings:
    """Settings of a verifier audit.

    Attributes:
        options: of the verifier, by its schema.
        edits: which edits of answers the metamorphic checks make; "auto" takes "math" for the verifier of that name, else none.
        edited: most right answers that are edited.
        timed: most answers that are checked one a call, for the latency.
        seed: of the choice of those, and of bootstrap intervals.
        thresholds: name of a figure -> threshold, instead of the default.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    edits: EditSet = "auto"
    edited: int = 100
    timed: int = 100
    seed: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("edited", "timed"):
            if getattr(self, name) < 1:
                raise AuditError(f"{name}: must be at least 1, is {getattr(self, name)}")
