"""Metamorphic tests (Chen et al. 1998): what must not change a verdict, and what must, without anyone labelling the changed answers.

Only answers that are labelled right and pass as they are get edited, so that a changed verdict is the edit's doing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Bars, Example, Findings, Missing, Table
from rewardmesh.audit.statistics import share
from rewardmesh.audit.verifier.asking import Checker
from rewardmesh.audit.verifier.check import Check, outcome
from rewardmesh.audit.verifier.data import LabelledAnswer, VerifierData
from rewardmesh.audit.verifier.edits import MATH, Metamorphosis, final
from rewardmesh.client import Verdict

KEPT = Spec("metamorphic.kept", "", "higher", 0.98, "Share of harmless edits after which a right answer still passes.")
CAUGHT = Spec("metamorphic.caught", "", "higher", 0.98, "Share of harmful edits after which it passes no longer.")
SPECS = (KEPT, CAUGHT)


@dataclass(frozen=True)
class _Trial:
    answer: LabelledAnswer
    edit: Metamorphosis
    text: str


async def run(checker: Checker, data: VerifierData) -> Findings:
    """Every edit of every chosen answer."""
    kind = checker.settings.edits
    if kind == "none" or (kind == "auto" and checker.info.name != "math"):
        return _nothing(f"no edits are known that verifier {checker.info.name!r} has to withstand; name a set with --edits")
    if checker.info.groups:
        return _nothing("the verifier judges groups: an edited answer would change the verdict on others")
    right = [answer for answer in data.answers if answer.right and final(answer.completion)]
    chosen = random.Random(checker.settings.seed).sample(right, min(checker.settings.edited, len(right)))
    before = await checker.verify([answer.to_sample(str(number)) for number, answer in enumerate(chosen)])
    passing = [answer for answer, verdict in zip(chosen, before, strict=True) if verdict.status == "PASS"]
    trials = [
        _Trial(answer, edit, text)
        for answer in passing
        for edit in MATH
        if (found := final(answer.completion)) and (text := edit.change(found)) is not None
    ]
    if not trials:
        return _nothing("no answer that is labelled right and passes ends in a line with a marker and a number")
    verdicts = await checker.verify([trial.answer.to_sample(str(number), trial.text) for number, trial in enumerate(trials)])
    rows = [(trial, verdict, _as_it_should(trial, verdict)) for trial, verdict in zip(trials, verdicts, strict=True)]
    by_edit = [(edit, [(verdict, good) for trial, verdict, good in rows if trial.edit is edit]) for edit in MATH]
    measured = [(edit, found) for edit, found in by_edit if found]
    wrong = [(trial, verdict) for trial, verdict, good in rows if not good]
    return Findings(
        len(rows),
        {
            KEPT.name: _share([good for trial, _, good in rows if trial.edit.keeps]),
            CAUGHT.name: _share([good for trial, _, good in rows if not trial.edit.keeps]),
        },
        notes=(f"{len(passing)} of the {len(right)} answers that are labelled right and end in a readable final line were edited.",),
        tables=(
            Table(
                "By edit",
                ("edit", "the verdict must", "answers", "as it should", "without a verdict"),
                tuple(
                    (
                        edit.name,
                        "stay" if edit.keeps else "change",
                        str(len(found)),
                        str(sum(good for _, good in found)),
                        str(sum(verdict.value is None for verdict, _ in found)),
                    )
                    for edit, found in measured
                ),
            ),
        ),
        examples=tuple(
            Example(
                trial.answer.id,
                f"{trial.edit.name}: verdict {outcome(verdict)}, {verdict.message.verdict.evidence}",
                {"edited answer": trial.text, "reference": "\n".join(trial.answer.references)[-200:]},
            )
            for trial, verdict in wrong[:8]
        ),
        plots=(
            Bars(
                "metamorphic",
                "Verdicts as they should be after an edit",
                "share of the edited answers",
                tuple(
                    (f"{edit.name} ({'stays' if edit.keeps else 'changes'})", each.value, each.low, each.high)
                    for edit, found in measured
                    for each in (share([good for _, good in found]),)
                ),
                threshold=checker.settings.thresholds.get(KEPT.name, KEPT.threshold),
            ),
        ),
    )


def _as_it_should(trial: _Trial, verdict: Verdict) -> bool:
    """An absence is no PASS: it is right after a harmful edit, and wrong after a harmless one."""
    return (verdict.status == "PASS") == trial.edit.keeps


def _share(hits: list[bool]) -> Estimate | Missing:
    return share(hits) if hits else Missing("no such edit applies to the answers")


def _nothing(reason: str) -> Findings:
    return Findings(0, {spec.name: Missing(reason) for spec in SPECS})


CHECK = Check(
    "metamorphic",
    "Metamorphic tests",
    "Right answers are edited. Another form of the same answer must still pass, another answer must not.",
    SPECS,
    run,
)
