r"""length_constraints:* and length:bounds - how long the text is, in which unit.

A word is a run of letters and digits. Sentences are split by `rewardmesh.verifier.sentences` (IFEval uses a trained model). IFEval's
paragraphs are parted by a line of three asterisks in `number_paragraphs`, and by an empty line in `nth_paragraph_first_word`.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Counted, Finding, Relation, Text, Undecided, compared
from rewardmesh.verifier.rules.words import count_words
from rewardmesh.verifier.sentences import sentences
from rewardmesh.verifier.verdicts import Reason

_STARS = re.compile(r"(?<!\*)\*\*\*(?!\*)")
_EMPTY_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_QUOTES = "\"'“”‘’«»`*_"
_FIRST_WORD = re.compile(r"[^\s.,?!;:\"'“”‘’]+")


class NumberWords(Constraint):
    """So many words."""

    id: Literal["length_constraints:number_words"] = "length_constraints:number_words"
    num_words: int = Field(ge=0)
    relation: Relation = "at least"

    def check(self, text: Text) -> Finding:
        """Counts words."""
        return compared(count_words(text.whole), self.relation, self.num_words, "words")


class NumberSentences(Constraint):
    """So many sentences."""

    quick: ClassVar[bool] = False

    id: Literal["length_constraints:number_sentences"] = "length_constraints:number_sentences"
    num_sentences: int = Field(ge=0)
    relation: Relation = "at least"

    def check(self, text: Text) -> Finding:
        """Counts sentences."""
        return compared(len(sentences(text.whole)), self.relation, self.num_sentences, "sentences")


class NumberParagraphs(Constraint):
    """Exactly so many paragraphs, parted by `***`."""

    id: Literal["length_constraints:number_paragraphs"] = "length_constraints:number_paragraphs"
    num_paragraphs: int = Field(ge=1)

    def check(self, text: Text) -> Finding:
        """A *** at either end parts nothing; two with nothing between them are a mistake."""
        paragraphs = [part.strip() for part in _STARS.split(text.whole)]
        if not all(paragraphs[1:-1]):
            return Finding(False, "nothing stands between two ***")
        return compared(sum(map(bool, paragraphs)), "exactly", self.num_paragraphs, "paragraphs parted by ***")


class NthParagraphFirstWord(Constraint):
    """Exactly so many paragraphs, parted by empty lines, and the nth begins with this word."""

    id: Literal["length_constraints:nth_paragraph_first_word"] = "length_constraints:nth_paragraph_first_word"
    num_paragraphs: int = Field(ge=1)
    nth_paragraph: int = Field(ge=1, description="Counted from 1.")
    first_word: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

    def check(self, text: Text) -> Finding:
        """The word is compared without case, quotation marks, and what follows its first punctuation."""
        paragraphs = [part for part in _EMPTY_LINE.split(text.whole.replace("\r\n", "\n").strip()) if part.strip()]
        count = compared(len(paragraphs), "exactly", self.num_paragraphs, "paragraphs parted by empty lines")
        if not count.kept or self.nth_paragraph > len(paragraphs):
            return Finding(False, f"{count.evidence}, the first word of number {self.nth_paragraph} asked for")
        match = _FIRST_WORD.search(paragraphs[self.nth_paragraph - 1].lstrip().lstrip(_QUOTES))
        word = match.group() if match else ""
        kept = word.casefold() == self.first_word.casefold()
        return Finding(kept, f"paragraph {self.nth_paragraph} begins with {word[:40]!r}; {self.first_word!r} wanted")


class Bounds(Counted):
    """A length between two bounds, in one of six units. Not of IFEval."""

    id: Literal["length:bounds"] = "length:bounds"
    unit: Literal["characters", "words", "sentences", "lines", "paragraphs", "tokens"] = "words"

    def cheap(self) -> bool:
        """Splitting into sentences is slow."""
        return self.unit != "sentences"

    def check(self, text: Text) -> Finding | Undecided:
        """Lines and paragraphs (parted by empty lines) are those with something in them; characters are code points."""
        whole = text.whole
        if self.unit == "tokens":
            if text.tokens is None:
                return Undecided(Reason.NOT_APPLICABLE, "length:bounds counts tokens and completion.token_ids is not set")
            count = text.tokens
        elif self.unit == "characters":
            count = len(whole)
        elif self.unit == "words":
            count = count_words(whole)
        elif self.unit == "sentences":
            count = len(sentences(whole))
        elif self.unit == "lines":
            count = sum(1 for line in whole.splitlines() if line.strip())
        else:
            count = sum(1 for part in _EMPTY_LINE.split(whole.replace("\r\n", "\n")) if part.strip())
        return self.judge(count, self.unit)
