"""Finds refusals: texts that say they cannot answer. English, by patterns that are searched in time linear in the text.

A plain refusal ("I cannot answer this") counts unless a later sentence or a "but" brings an answer all the same. A hedge ("I am not
sure") is common beside an answer; it counts only when nothing that might be an answer comes behind it at all.
"""

import re
from collections.abc import Callable, Sequence

from rewardmesh.verifier.patterns import linear

SUBJECT = r"\b(?:i|we)\b"
_ADVERB = r"(?:(?:really|honestly|simply|just|sadly|unfortunately|currently|still)\s+)?"
NOT = rf"(?:\s+{_ADVERB}(?:(?:do|could|am|are|will|would)(?:\s+not|n['’]t)|can(?:\s*not|['’]t)|won['’]t)|['’]m\s+not)"
_ABLE = r"(?:(?:be\s+)?able\s+to\s+)?(?:\w+\s+)?"
_SOLVE = (
    r"(?:answer|solve|determine|compute|calculate|say|tell|guess|find\s+(?:an?|the|out)\b|help\s+(?:you\s+)?with\s+(?:this|that)"
    r"|(?:provide|give)\s+(?:you\s+)?(?:an?|the)\s+(?:\w+\s+)?(?:answer|solution)|(?:work|figure)\s+(?:this|it|that)\s+out)"
)
_BE = r"\b(?:i\s*(?:am|['’]m)|we\s*(?:are|['’]re))\s+(?:\w+\s+)?"
_FACTS = r"(?:information|knowledge|data|details?|context)"
_SOLVED = r"(?:answered|determined|solved|known|found|calculated|computed|established|worked\s+out|told)"
PLAIN = (
    rf"{SUBJECT}{NOT}\s+{_ABLE}{_SOLVE}",
    rf"{SUBJECT}{NOT}\s+(?:\w+\s+)?know\s+(?:the\s+(?:correct\s+|exact\s+)?answer|how\s+to\s+(?:answer|solve)|enough)",
    rf"{SUBJECT}{NOT}\s+have\s+(?:enough|sufficient|the|any|an|access\s+to)\s+(?:\w+\s+)?(?:{_FACTS}|answer|solution)",
    rf"{_BE}unable\s+to\s+(?:\w+\s+)?{_SOLVE}",
    rf"(?:\bnot|n['’]t)\s+(?:enough|sufficient)\s+{_FACTS}\b",
    rf"\b(?:insufficient|inadequate)\s+{_FACTS}\b",
    rf"\bi\s+lack\s+(?:the\s+)?(?:\w+\s+)?(?:{_FACTS}|means)\b",
    rf"\b(?:can\s*not|can['’]t|could\s+not|couldn['’]t)\s+be\s+{_SOLVED}\b",
    r"\b(?:impossible|no\s+way)\s+(?:for\s+\w+\s+)?to\s+(?:answer|say|tell|know|determine|solve|find\s+out|compute|calculate)\b",
    r"\b(?:beyond|outside)\s+(?:of\s+)?(?:me\b|my\s+(?:knowledge|abilit(?:y|ies)|capabilit(?:y|ies)|expertise|training|understanding))",
    r"\b(?:i\s+(?:must|have\s+to|would\s+rather|would\s+prefer\s+(?:not\s+)?to|prefer\s+(?:not\s+)?to)|i['’]d\s+(?:rather|prefer\s+(?:not\s+)?to))"
    r"\s+(?:decline|abstain|refuse|pass|skip|(?:not\s+)?(?:answer|guess))",
    r"\bi\s+(?:refuse|decline|abstain|give\s+up)\b",
    r"\bi\s+have\s+no\s+(?:idea|clue|answer|way\s+of\s+knowing|information|knowledge)\b",
)
HEDGES = (
    rf"{SUBJECT}{NOT}\s+(?:\w+\s+)?know\b",
    rf"{_BE}(?:not\s+(?:\w+\s+)?(?:sure|certain|confident)|unsure|uncertain)\b",
    r"\b(?:no\s+idea|don['’]t\s+know|dunno)\b",
    r"\b(?:it\s+is|it['’]s|this\s+is|that['’]s)\s+(?:not\s+(?:known|clear)|unknown|unclear|uncertain)\b",
    r"^\W*(?:unknown|unsure|uncertain|unanswerable|undetermined|pass|idk|n/a|not\s+(?:sure|certain|known)|no\s+(?:answer|clue))\W*$",
    r"\bsorry\b",
)
_CLAUSE_END = re.compile(r"[.!?;\n]|,?\s(?=(?:but|so)\b)")


def find_refusal(text: str, more: Sequence[str], english: bool, answered: Callable[[str], bool]) -> tuple[int, int] | None:
    """Code-point offsets of the refusal in `text`; None when it is none.

    Args:
        text: what may refuse; that it states no answer explicitly is the caller's to see.
        more: patterns of the caller's, each a plain refusal.
        english: whether PLAIN and HEDGES count too.
        answered: whether a text (what comes behind) holds something that might be an answer.
    """
    for pattern in (*more, *(PLAIN if english else ())):
        match = linear(pattern, "im").search(text)
        if match and not answered(_later(text[match.end() :])):
            return match.span()
    if not english:
        return None
    for pattern in HEDGES:
        match = linear(pattern, "im").search(text)
        if match and not answered(text[match.end() :]):
            return match.span()
    return None


def _later(text: str) -> str:
    """What follows the sentence or clause that `text` begins in."""
    match = _CLAUSE_END.search(text)
    return text[match.end() :] if match else ""
