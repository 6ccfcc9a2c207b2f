"""Runs the checks one after the other and puts their findings beside the thresholds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.figures import Spec, Thresholds
from rewardmesh.audit.findings import Section
from rewardmesh.audit.sections import section
from rewardmesh.audit.subject import Audit
from rewardmesh.audit.verifier.asking import Checker, OnProgress, find
from rewardmesh.audit.verifier.checks import CHECKS
from rewardmesh.audit.verifier.data import VerifierData
from rewardmesh.audit.verifier.settings import VerifierSettings
from rewardmesh.client import AsyncClient

OnSection = Callable[[Section], None]
"""Called with each section as it is finished: what is left of an audit that is interrupted."""


async def audit_verifier(
    client: AsyncClient,
    verifier: str,
    data: VerifierData,
    settings: VerifierSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_section: OnSection | None = None,
) -> Audit:
    """Audit a verifier of the server behind a client.

    Raises:
        AuditError: no answers, an unknown verifier or threshold.
        CallFailed: the server cannot be reached or refuses the requests, for example an option.
    """
    settings = settings or VerifierSettings()
    if not data.answers:
        raise AuditError(f"{data.name}: holds no labelled answers")
    thresholds = Thresholds(specs(), settings.thresholds)
    checker = Checker(client, await find(client, verifier), settings, on_progress or _silent)
    sections: list[Section] = []
    for check in CHECKS:
        checker.begin(check.name)
        began = time.monotonic()
        findings = await check.run(checker, data)
        found = section(check, findings, checker.asked, checker.absent, checker.details, thresholds, time.monotonic() - began)
        sections.append(found)
        if on_section:
            on_section(found)
    return assembled(sections, verifier, data, settings, complete=True)


def assembled(sections: Sequence[Section], verifier: str, data: VerifierData, settings: VerifierSettings, *, complete: bool) -> Audit:
    """An audit from its sections; `complete` says whether they are all."""
    return Audit(
        kind="verifier",
        subject={"verifier": verifier, "options": json.dumps(dict(settings.options), sort_keys=True)},
        data=data.describe(),
        settings={"seed": str(settings.seed), "edits": settings.edits},
        sections=tuple(sections),
        required=frozenset(settings.thresholds),
        complete=complete,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def specs() -> tuple[Spec, ...]:
    """All figures of a verifier audit."""
    return tuple(spec for check in CHECKS for spec in check.specs)


def _silent(check: str, done: int, asked: int) -> None:
    """No one watches."""
