"""Tells which language a text is written in, or that it cannot tell.

py3langid (a naive Bayes model over byte n-grams, restricted to well-represented languages) is loaded on first use, once a process: half a
second and some 100 MB. Text of too few letters or without a clear winner has no language: a guess would be noise in the reward.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

from rewardmesh.verifier.loading import loading
from rewardmesh.verifier.sentences import sentences

_CODES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru sk sl so sq "
    "sv sw ta te th tl tr uk ur vi zh"
)
KNOWN = frozenset(_CODES.split())
"""ISO 639-1 codes of the languages that are told apart."""
FEWEST_LETTERS = 12
"""Letters that a text needs; a letter of a script without an alphabet, or of Devanagari and its like, counts for three."""
CLEAR = 0.8
"""Probability from which a language is told."""
PIECE_LETTERS = 24
LONGEST_READ = 20_000
"""Code points that are read of a text: a language shows long before."""

_FENCED = re.compile(r"^```.*?(?:^```[^\S\n]*$|\Z)", re.MULTILINE | re.DOTALL)


def language_of(text: str) -> str | None:
    """ISO 639-1 code; None when it cannot be told."""
    text = text[:LONGEST_READ].casefold()
    if sum(1 if letter < "\u0900" else 3 for letter in text if letter.isalpha()) < FEWEST_LETTERS:
        return None
    language, probability = _identifier().classify(text)
    return str(language) if probability >= CLEAR else None


def shares(text: str) -> dict[str | None, float]:
    """Share of the letters of `text` in each language, None for what cannot be told; sums to 1. Empty without any letter.

    Fenced code is left out. Sentences are read together until they have PIECE_LETTERS letters. A piece that cannot be told alone is in the
    language of the whole.
    """
    text = _FENCED.sub("\n", text[:LONGEST_READ])
    letters: Counter[str | None] = Counter()
    piece, size = "", 0
    spans = sentences(text)
    for number, (start, end) in enumerate(spans):
        piece += " " + text[start:end]
        size += sum(map(str.isalpha, text[start:end]))
        if size >= PIECE_LETTERS or number == len(spans) - 1:
            if size:
                letters[language_of(piece)] += size
            piece, size = "", 0
    if None in letters:
        letters[language_of(text)] += letters.pop(None)
    total = letters.total()
    return {language: count / total for language, count in letters.items()}


@lru_cache(maxsize=1)
def _identifier() -> Any:
    with loading():
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        identifier.set_languages(sorted(KNOWN))
    return identifier
