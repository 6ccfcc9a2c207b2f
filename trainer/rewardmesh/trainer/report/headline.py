"""The before/after table and the table of services, as rows of text: the same for the terminal and for the page.

Every component has its own line under the composed reward, so that nobody can mistake reward for quality.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rewardmesh.trainer.report.numbers import MISSING, accuracy_text, change, percent, section, text_of, total


@dataclass(frozen=True)
class HeadlineRow:
    """One measure before and after training."""

    measure: str
    before: str
    after: str
    change: str = MISSING


@dataclass(frozen=True)
class ServiceRow:
    """What one service was asked and what it could not answer."""

    service: str
    requests: str
    absences: str
    reasons: str


def headline_rows(summary: Mapping[str, object]) -> list[HeadlineRow]:
    """Accuracy with 95% intervals, composed reward, every component, length, KL and absences."""
    n = summary.get("heldout_n")
    rows = []
    for label, key in (("sampled", "heldout_accuracy"), ("greedy", "heldout_greedy_accuracy")):
        before, after = summary.get(f"{key}_before"), summary.get(f"{key}_after")
        texts = accuracy_text(before, n), accuracy_text(after, n)
        rows.append(HeadlineRow(f"Held-out accuracy, {label} (n={text_of(n)})", *texts, change(before, after, as_percent=True)))
    rows.append(_row("Composed reward", summary.get("reward_before"), summary.get("reward_after")))
    before_components, after_components = section(summary, "components_before"), section(summary, "components_after")
    for name in dict.fromkeys([*before_components, *after_components]):
        rows.append(_row(f"  component {name}", before_components.get(name), after_components.get(name)))
    rows.append(_row("Completion length (tokens)", summary.get("length_before"), summary.get("length_after"), digits=1))
    rows.append(HeadlineRow("KL from the reference (nats)", MISSING, text_of(summary.get("heldout_kl", summary.get("kl")))))
    absences = section(summary, "absences")
    rows.append(HeadlineRow("Absent scores in training", MISSING, text_of(int(total(absences))) if "absences" in summary else MISSING))
    return rows


def run_facts(summary: Mapping[str, object]) -> list[tuple[str, str]]:
    """What the run was and what it cost; only what is known."""
    facts = [(label, text_of(summary[key])) for label, key in _FACTS if summary.get(key) is not None]
    if summary.get("reward_wait_fraction") is not None:
        facts.append(("Share of a step spent waiting for rewards", percent(summary["reward_wait_fraction"])))
    return facts


def service_rows(summary: Mapping[str, object]) -> list[ServiceRow]:
    """Requests and absences per service."""
    requests, absences = section(summary, "requests"), section(summary, "absences")
    rows = []
    for service in sorted({*requests, *absences}):
        reasons = section(absences, service)
        asked = text_of(int(total(requests[service]))) if service in requests else MISSING
        named = ", ".join(f"{reason} {text_of(int(total(count)))}" for reason, count in sorted(reasons.items()) if total(count))
        rows.append(ServiceRow(service, asked, text_of(int(total(absences.get(service)))), named or MISSING))
    return rows


_FACTS = (
    ("Algorithm", "algorithm"),
    ("Policy", "policy"),
    ("Seed", "seed"),
    ("Steps", "steps"),
    ("Seconds per step", "seconds_per_step"),
)


def _row(measure: str, before: object, after: object, digits: int = 3) -> HeadlineRow:
    return HeadlineRow(measure, text_of(before, digits), text_of(after, digits), change(before, after, digits=digits))
