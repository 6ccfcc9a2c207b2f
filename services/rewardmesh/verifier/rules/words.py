"""Finding phrases and counting words, in any script, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

from pydantic import StringConstraints

Phrase = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_WORD = re.compile(r"\w+")
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: their words have no visible borders."""
_INSIDE = rf"[^\W{_SPACELESS}]"


def occurrences(text: str, phrase: str, *, whole_words: bool = False) -> Iterator[tuple[int, int]]:
    """Where `phrase` occurs, whatever the case of letters; code-point offsets [start, end) that do not overlap.

    White space of the phrase stands for any run of it. With `whole_words`, not inside a longer word.
    """
    return (match.span() for match in _searched(phrase, whole_words).finditer(text))


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores, as IFEval counts: "don't" has two."""
    return sum(1 for _ in _WORD.finditer(text))


@lru_cache(maxsize=2048)
def _searched(phrase: str, whole_words: bool) -> re.Pattern[str]:
    words = phrase.split()
    body = r"\s+".join(map(re.escape, words)) if words else re.escape(phrase)
    if whole_words:
        before = rf"(?<!{_INSIDE})" if re.match(_INSIDE, phrase) else ""
        after = rf"(?!{_INSIDE})" if re.match(_INSIDE, phrase[-1]) else ""
        body = f"{before}{body}{after}"
    return re.compile(body, re.IGNORECASE)
