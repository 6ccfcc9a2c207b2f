"""Edits that leave the meaning of a prompt or an answer as it is. Each is applied to both answers of a pair alike, or to the prompt.

An edit that leaves a text as it was (no letter to change, no line to mark) is not applicable there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rewardmesh.audit.judge.data import Answer, AuditPair


@dataclass(frozen=True)
class Edit:
    """One way to write the same differently."""

    name: str
    on: str
    """"prompt" (the last message) or "answers" (both)."""
    change: Callable[[str], str]


def apply(edit: Edit, pair: AuditPair) -> AuditPair | None:
    """The pair written differently; None when the edit changes nothing of it."""
    if edit.on == "prompt":
        *before, (role, content) = pair.prompt
        changed = replace(pair, prompt=(*before, (role, edit.change(content))))
    else:
        changed = replace(pair, a=_edited(pair.a, edit), b=_edited(pair.b, edit))
    return None if changed == pair else changed


def from_file(paraphrases: tuple[tuple[str, str], ...]) -> tuple[Edit, ...]:
    """Edits that put a user's own paraphrases in place of whole prompts and whole answers."""
    known = {original.strip(): other for original, other in paraphrases}

    def change(text: str) -> str:
        return known.get(text.strip(), text)

    return (Edit("own paraphrases: prompt", "prompt", change), Edit("own paraphrases: answers", "answers", change)) if known else ()


def _edited(answer: Answer, edit: Edit) -> Answer:
    return replace(answer, text=edit.change(answer.text))


def _first_letter(text: str) -> str:
    """The first letter in the other case."""
    for index, sign in enumerate(text):
        if sign.isalpha():
            return text[:index] + sign.swapcase() + text[index + 1 :]
    return text


def _list_markers(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(f"- {line}" if line.strip() else line for line in lines) if len(lines) > 1 else text


EDITS = (
    Edit("prompt: white space around", "prompt", lambda text: f"\n {text} \n"),
    Edit("prompt: 'Question:' before", "prompt", lambda text: f"Question: {text}"),
    Edit("prompt: 'Please answer.' after", "prompt", lambda text: f"{text} Please answer."),
    Edit("prompt: a framing sentence before", "prompt", lambda text: f"Here is something I would like to know. {text}"),
    Edit("prompt: in quotes", "prompt", lambda text: f'"{text}"'),
    Edit("prompt: case of the first letter", "prompt", _first_letter),
    Edit("answers: white space around", "answers", lambda text: f"\n {text} \n"),
    Edit("answers: 'Answer:' before", "answers", lambda text: f"Answer: {text}"),
    Edit("answers: list markers", "answers", _list_markers),
    Edit("answers: blank lines between lines", "answers", lambda text: text.replace("\n", "\n\n")),
    Edit("answers: in quotes", "answers", lambda text: f'"{text}"'),
    Edit("answers: case of the first letter", "answers", _first_letter),
)
