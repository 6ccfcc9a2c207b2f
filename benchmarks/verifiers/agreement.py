"""Verdicts against labels: the math verifier and a majority vote on real answers, every verifier on its labelled file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.verifiers.answers import Labelled
from benchmarks.verifiers.explained import EXPLAINED
from benchmarks.verifiers.measures import Agreement
from rewardmesh.client import AsyncClient, sample

LABELLED = Path(__file__).parent / "labelled"
"""One file a verifier, of examples written for this purpose: {"kind", "completion", "references", "options", "wanted"}, one a line, with
"wanted" one of pass, partial and fail."""


async def against_labels(client: AsyncClient, answers: Sequence[Labelled]) -> tuple[Agreement, list[dict[str, Any]]]:
    """The math verifier's agreement, and every disagreement with its explanation (None without one)."""
    verdicts = await client.verify([answer.build() for answer in answers], "math")
    disagreements = [
        {
            "id": answer.id,
            "stated": answer.completion[-120:],
            "reference": answer.reference[-120:],
            "label": answer.right,
            "verdict": verdict.value,
            "evidence": verdict.absence.detail if verdict.absence else verdict.message.verdict.evidence,
            "explanation": EXPLAINED.get(answer.id),
        }
        for answer, verdict in zip(answers, verdicts, strict=True)
        if (verdict.value == 1) != answer.right or verdict.absence is not None
    ]
    return Agreement.count((a.right, v.value) for a, v in zip(answers, verdicts, strict=True)), disagreements


async def consensus_against_labels(client: AsyncClient, answers: Sequence[Labelled]) -> Agreement:
    """Whether what most answers to a question state is right: no verifier that reads references, so no bar."""
    verdicts = []
    for start in range(0, len(answers), 4):  # a call a question: a group has to come whole
        verdicts += await client.verify([answer.build() for answer in answers[start : start + 4]], "consensus")
    return Agreement.count((a.right, v.value) for a, v in zip(answers, verdicts, strict=True))


async def labelled_files(client: AsyncClient, folder: Path = LABELLED) -> dict[str, dict[str, Any]]:
    """By verifier: examples, agreement of status, precision and recall of PASS, and what disagrees."""
    return {file.stem: await _labelled(client, file) for file in sorted(folder.glob("*.jsonl"))}


async def _labelled(client: AsyncClient, file: Path) -> dict[str, Any]:
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    by_options: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_options.setdefault(json.dumps(row["options"], sort_keys=True), []).append(place)
    values: dict[int, float | None] = {}
    for options, places in by_options.items():
        samples = [sample(str(place), "", rows[place]["completion"], references=rows[place]["references"]) for place in places]
        verdicts = await client.verify(samples, file.stem, options=json.loads(options))
        values.update(zip(places, (verdict.value for verdict in verdicts), strict=True))
    agreement = Agreement.count((row["wanted"] == "pass", values[place]) for place, row in enumerate(rows))
    differs = [place for place, row in enumerate(rows) if _status(values[place]) != row["wanted"]]
    return {
        **agreement.record(),
        "as_labelled": 1 - len(differs) / len(rows),
        "kinds": sorted({row["kind"] for row in rows}),
        "differs": [{**rows[place], "found": _status(values[place])} for place in differs],
    }


def _status(value: float | None) -> str:
    return "absent" if value is None else "pass" if value == 1 else "fail" if value == 0 else "partial"
