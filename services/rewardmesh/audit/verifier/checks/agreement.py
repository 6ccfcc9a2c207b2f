"""Agreement with labels: confusion matrix, precision, recall and accuracy, every disagreement with its evidence.

A verdict says "right" from a score of 0.5. Items without a verdict count in no rate but that of absences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rewardmesh.audit.figures import Estimate, Spec
from rewardmesh.audit.findings import Example, Findings, Matrix, Missing, Table
from rewardmesh.audit.statistics import share
from rewardmesh.audit.verifier.asking import Checker
from rewardmesh.audit.verifier.check import Check, outcome, says_right
from rewardmesh.audit.verifier.data import LabelledAnswer, VerifierData
from rewardmesh.client import Verdict

ACCURACY = Spec("agreement.accuracy", "", "higher", 0.95, "Share of the verdicts that say what the label says.")
PRECISION = Spec("agreement.precision", "", "higher", 0.95, "Share of the answers called right that are labelled right.")
RECALL = Spec("agreement.recall", "", "higher", 0.95, "Share of the answers labelled right that are called right.")
ABSENT = Spec("agreement.absent", "", "lower", 0.05, "Share of the answers without a verdict.")
SPECS = (ACCURACY, PRECISION, RECALL, ABSENT)
STATUSES = ("PASS", "PARTIAL", "FAIL", "absent")
LONGEST = 400


async def run(checker: Checker, data: VerifierData) -> Findings:
    """Every answer once."""
    verdicts = await checker.verify([answer.to_sample(str(number)) for number, answer in enumerate(data.answers)])
    rows = list(zip(data.answers, verdicts, strict=True))
    judged = [(answer, verdict, said) for answer, verdict in rows if (said := says_right(verdict)) is not None]
    counts = Counter((answer.right, verdict.status or "absent") for answer, verdict in rows)
    wrong = [(answer, verdict) for answer, verdict, said in judged if said != answer.right]
    estimates: dict[str, Estimate | Missing] = {
        ACCURACY.name: share([said == answer.right for answer, _, said in judged]) if judged else Missing("no answer has a verdict"),
        PRECISION.name: _share([answer.right for answer, _, said in judged if said], "no answer was called right"),
        RECALL.name: _share([said for answer, _, said in judged if answer.right], "no answer with a verdict is labelled right"),
        ABSENT.name: share([verdict.value is None for verdict in verdicts]),
    }
    return Findings(
        len(judged),
        estimates,
        notes=() if wrong else ("No verdict disagrees with its label.",),
        tables=(
            Table(
                "Verdict by label",
                ("label", *STATUSES),
                tuple((name, *(str(counts[right, status]) for status in STATUSES)) for name, right in (("right", True), ("wrong", False))),
            ),
            *_absences(Counter(outcome(verdict) for verdict in verdicts if verdict.value is None)),
            *_disagreements(wrong),
        ),
        examples=tuple(
            Example(
                answer.id,
                f"labelled {'right' if answer.right else 'wrong'}, verdict {outcome(verdict)}: {verdict.message.verdict.evidence}",
                {"prompt": answer.prompt[-1][1], "answer": answer.completion, "reference": "\n".join(answer.references)[-LONGEST:]},
            )
            for answer, verdict in wrong[:10]
        ),
        plots=(
            Matrix(
                "confusion",
                "Verdicts by label",
                "verdict",
                "label",
                STATUSES,
                ("right", "wrong"),
                tuple(tuple(counts[right, status] for status in STATUSES) for right in (True, False)),
            ),
        ),
    )


def _share(hits: list[bool], otherwise: str) -> Estimate | Missing:
    return share(hits) if hits else Missing(otherwise)


def _disagreements(wrong: Sequence[tuple[LabelledAnswer, Verdict]]) -> tuple[Table, ...]:
    """All of them: each has to be explained by someone."""
    if not wrong:
        return ()
    rows = tuple(
        (answer.id, "right" if answer.right else "wrong", outcome(verdict), verdict.message.verdict.evidence, answer.completion[-80:])
        for answer, verdict in wrong
    )
    return (Table(f"All {len(wrong)} disagreements", ("answer", "label", "verdict", "evidence", "end of the answer"), rows),)


def _absences(reasons: Counter[str]) -> tuple[Table, ...]:
    if not reasons:
        return ()
    return (Table("Absences by reason", ("reason", "answers"), tuple((reason, str(count)) for reason, count in reasons.most_common())),)


CHECK = Check(
    "agreement",
    "Agreement with labels",
    "Every labelled answer is checked once. Precision says how far a PASS can be trusted as reward, recall how much right work goes "
    "unrewarded.",
    SPECS,
    run,
)
