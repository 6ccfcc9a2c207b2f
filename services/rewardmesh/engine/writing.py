"""What a judge asks an engine to write: reasons, votes, critiques. Text out, with what it cost; grammars constrain what may be written.

Unlike `sampling`, nobody trains on what is written here, so that an endpoint that gives text alone can do it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "non_finite", "aborted"]


@dataclass(frozen=True)
class JsonGrammar:
    """Only documents of a JSON schema; `schema` is the schema as canonical JSON text."""

    schema: str


@dataclass(frozen=True)
class ChoiceGrammar:
    """Only one of the words, nothing before or behind it."""

    words: tuple[str, ...]


Grammar = JsonGrammar | ChoiceGrammar


@dataclass(frozen=True)
class WritingOptions:
    """How to write.

    Attributes:
        n: texts a prompt, at least 1.
        temperature: divides the logits; 0 is greedy.
        top_p: truncation of the support; 1 for none.
        max_tokens: most tokens a text.
        seed: fixes every text together with its prompt's key and its index, where the engine computes here; a wish elsewhere.
        stop: texts that end it; not part of it.
        grammar: what may be written; None for anything.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Written:
    """One text.

    Attributes:
        text: without control tokens and without the stop text.
        finish: why it ended; "length" means that it is cut off.
        tokens_read: of the prompt, as the engine counts them; with the first of its texts, 0 with the others, as it is read once for all.
        tokens_written: as the engine counts them; one that counts a prompt's texts together counts them in equal parts.
    """

    text: str
    finish: Finish
    tokens_read: int
    tokens_written: int
