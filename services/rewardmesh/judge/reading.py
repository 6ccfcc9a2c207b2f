"""Verdicts and critiques that a model has written, read from its text.

Where the engine follows a grammar the text is the document that was asked for. Elsewhere a model writes around it: the last JSON object
that fits counts, then a text that is a label and nothing else, then the last `verdict: label`. What fits none of these is unreadable,
never a guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rewardmesh.engine.writing import JsonGrammar
from rewardmesh.judge.votes import Vote, unreadable
from rewardmesh.v1 import common_pb2 as pb

# Some grammars let bare line breaks into strings.
_AROUND = " \n\t.*\"'()"
_DECODER = json.JSONDecoder(strict=False)


def verdict_grammar(words: Sequence[str], *, strength: bool) -> JsonGrammar:
    """{"verdict": one of the words}, with "strength" in [0, 1] where that is asked for."""
    properties: dict[str, Any] = {"verdict": {"type": "string", "enum": list(words)}}
    if strength:
        properties["strength"] = {"type": "number", "minimum": 0, "maximum": 1}
    return object_grammar(properties)


def object_grammar(properties: dict[str, Any]) -> JsonGrammar:
    """An object with exactly these properties, in this order."""
    # Keys in the order of the properties: what is written first must not depend on the alphabet.
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return JsonGrammar(json.dumps(schema))


def read_verdict(text: str, words: Sequence[str], texts: tuple[str, ...]) -> Vote | pb.Absence:
    """The vote that a text is, or UNPARSABLE; `texts` are those of the hops before."""
    stated: object = None
    strength: float | None = None
    for document in _objects(text):
        if "verdict" in document:
            stated, strength = document["verdict"], _unit(document.get("strength"))
    word = str(stated).strip() if stated is not None else text.strip(_AROUND)
    if word not in words and stated is None:
        pattern = rf"\bverdict\W{{1,5}}({'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})(?!\w)"
        found = re.findall(pattern, text, re.IGNORECASE)
        word = next((label for label in words if found and label.lower() == found[-1].lower()), word)
    if word not in words:
        return unreadable(text, f"no verdict among {', '.join(words)} can be read")
    return Vote(tuple(float(label == word) for label in words), texts, strength)


def order_grammar(words: Sequence[str]) -> JsonGrammar:
    """{"order": all of the words, best first}."""
    items = {"type": "string", "enum": list(words)}
    return object_grammar({"order": {"type": "array", "items": items, "minItems": len(words), "maxItems": len(words)}})


def read_order(text: str, words: Sequence[str], texts: tuple[str, ...]) -> Vote | pb.Absence:
    """A list in the order that a text states, as chances that each word is ahead of others: they fall by half from place to place."""
    document = last_object(text, "order")
    stated = document["order"] if document else re.split(r"[>,;\s]+", text.strip())
    letters = [str(each).strip() for each in stated] if isinstance(stated, list) else []
    if sorted(letters) != sorted(words):
        return unreadable(text, f"no order of {', '.join(words)} can be read")
    places = [2.0 ** -letters.index(word) for word in words]
    return Vote(tuple(place / sum(places) for place in places), texts)


def last_object(text: str, field: str) -> dict[str, Any] | None:
    """The last JSON object in a text that has a field."""
    return next((document for document in reversed(list(_objects(text))) if field in document), None)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, those inside others left out."""
    start = text.find("{")
    while start >= 0:
        try:
            document, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(document, dict):
                yield document
        start = text.find("{", end)


def _unit(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return min(max(float(value), 0.0), 1.0)
