"""Brings texts into a form in which equal answers are equal strings. Every step is linear in the text, whatever the text."""

import re
import string
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from pydantic import Field

from rewardmesh.verifier.registry import Options

Whitespace = Literal["keep", "strip", "collapse"]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SHOWN = 200


class NormalisationOptions(Options):
    """What does not count when texts are compared. Applied in the order of the fields, whitespace last.

    `ignore_case`, `remove_punctuation`, `remove_articles` and `whitespace: collapse` together are the normalisation of SQuAD's exact match
    (Rajpurkar et al. 2016, arXiv 1606.05250), but for case folding in place of lower case, so that "STRASSE" equals "Straße".
    """

    ignore_case: bool = Field(False, description="Whether upper and lower case are the same.")
    remove_punctuation: bool = Field(False, description="Whether ASCII punctuation is taken out.")
    remove_articles: bool = Field(False, description="Whether the English articles a, an and the are taken out.")
    whitespace: Whitespace = Field(
        "strip", description="keep: it counts. strip: not at either end. collapse: also, every run of it counts as one space."
    )

    def normalise(self, text: str) -> str:
        """`text` in the form that is compared."""
        return _normaliser(self.ignore_case, self.remove_punctuation, self.remove_articles, self.whitespace)(text)


@lru_cache(maxsize=24)
def _normaliser(ignore_case: bool, remove_punctuation: bool, remove_articles: bool, whitespace: Whitespace) -> Callable[[str], str]:
    def normalise(text: str) -> str:
        if ignore_case:
            text = text.casefold()
        if remove_punctuation:
            text = text.translate(_NO_PUNCTUATION)
        if remove_articles:
            text = _ARTICLES.sub(" ", text)
        if whitespace == "strip":
            return text.strip()
        return " ".join(text.split()) if whitespace == "collapse" else text

    return normalise


def shown(text: str) -> str:
    """`text` in quotes for evidence, cut when it is long."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
