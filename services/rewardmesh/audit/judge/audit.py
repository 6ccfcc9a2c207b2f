"""Runs the probes one after the other and puts their findings beside the thresholds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rewardmesh.audit.errors import AuditError
from rewardmesh.audit.figures import Spec, Thresholds
from rewardmesh.audit.findings import Findings, Section
from rewardmesh.audit.judge.asking import Asker, OnProgress
from rewardmesh.audit.judge.data import JudgeData
from rewardmesh.audit.judge.probe import Probe
from rewardmesh.audit.judge.probes import PROBES
from rewardmesh.audit.judge.settings import JudgeSettings
from rewardmesh.audit.sections import section
from rewardmesh.audit.statistics import share
from rewardmesh.audit.subject import Audit
from rewardmesh.client import AsyncClient
from rewardmesh.v1.common_pb2 import ModelRef

ABSENT = Spec("answers.absent", "", "lower", 0.05, "Share of all questions that got no verdict.")
OnSection = Callable[[Section, ModelRef | None], None]
"""Called with each section as it is finished and the judge that answered: what is left of an audit that is interrupted."""


async def audit_judge(
    client: AsyncClient,
    data: JudgeData,
    settings: JudgeSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_section: OnSection | None = None,
) -> Audit:
    """Audit the judge behind a client.

    Args:
        data: at least one pair; what is labelled, grouped or tagged with models is looked at more closely.

    Raises:
        AuditError: no pairs, an unknown probe or threshold, a judge that changed meanwhile.
        CallFailed: the judge cannot be reached or refuses the requests.
    """
    settings = settings or JudgeSettings()
    if not data.pairs:
        raise AuditError(f"{data.name}: holds no pair of answers to compare")
    probes = chosen(settings.probes)
    thresholds = Thresholds(specs(probes), settings.thresholds)
    sampled = data.sampled(settings.pairs, settings.groups, settings.seed)
    sections: list[Section] = []
    judge: ModelRef | None = None
    for probe in probes:
        asker = Asker(client, settings, probe.name, judge, on_progress or _silent)
        began = time.monotonic()
        findings = await probe.run(asker, sampled, settings)
        judge = asker.judge
        found = section(probe, findings, asker.asked, asker.absent, asker.details, thresholds, time.monotonic() - began)
        sections.append(found)
        if on_section:
            on_section(found, judge)
    return assembled(sections, judge, sampled, settings, complete=True)


def assembled(sections: Sequence[Section], judge: ModelRef | None, data: JudgeData, settings: JudgeSettings, *, complete: bool) -> Audit:
    """An audit from its sections; `complete` says whether they are all."""
    thresholds = Thresholds(specs(chosen(settings.probes)), settings.thresholds)
    judge = judge or ModelRef()
    return Audit(
        kind="judge",
        subject={
            "model": judge.name,
            "version": str(judge.version),
            "template": settings.template or "(the service's default)",
            "fingerprint": judge.fingerprint,
        },
        data=data.describe(),
        settings=settings.describe(),
        sections=(*sections, _answers(sections, thresholds)) if sections else (),
        required=thresholds.required,
        complete=complete,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def chosen(names: Sequence[str]) -> tuple[Probe, ...]:
    """The probes of these names, in the order of the report; all for none.

    Raises:
        AuditError: an unknown name.
    """
    known = {probe.name: probe for probe in PROBES}
    if unknown := sorted(set(names) - set(known)):
        raise AuditError(f"probes: {unknown[0]!r} is unknown; known: {', '.join(known)}")
    return tuple(probe for probe in PROBES if not names or probe.name in names)


def specs(probes: Sequence[Probe] = PROBES) -> tuple[Spec, ...]:
    """All figures of these probes, and of the audit as a whole."""
    return (*(spec for probe in probes for spec in probe.specs), ABSENT)


def _answers(sections: Sequence[Section], thresholds: Thresholds) -> Section:
    """Absences of all probes together."""
    asked = sum(each.asked for each in sections)
    absent: Counter[str] = Counter()
    details: dict[str, str] = {}
    for each in sections:
        absent.update(each.absent)
        details = {**each.details, **details}
    lost = [True] * absent.total() + [False] * (asked - absent.total())
    return Section(
        name="answers",
        title="Answers",
        meaning="How many questions got a verdict at all. A question without one counts in no other figure.",
        figures=(thresholds.figure(ABSENT, share(lost)),) if asked else (),
        missing={} if asked else {ABSENT.name: "nothing was asked"},
        asked=0,
        absent={},
        details=details,
        findings=Findings(asked - absent.total(), {}),
        seconds=sum(each.seconds for each in sections),
    )


def _silent(probe: str, done: int, asked: int) -> None:
    """No one watches."""
