"""combination:* - two answers, and the request repeated before the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from rewardmesh.verifier.rules.constraint import Constraint, Finding, Text

_PARTING = "******"


class TwoResponses(Constraint):
    """Two different answers, parted by six asterisks."""

    id: Literal["combination:two_responses"] = "combination:two_responses"

    def check(self, text: Text) -> Finding:
        """Asterisks at either end part nothing; two partings with nothing between them are a mistake."""
        answers = [part.strip() for part in text.whole.split(_PARTING)]
        if not all(answers[1:-1]):
            return Finding(False, f"nothing stands between two {_PARTING}")
        answers = [answer for answer in answers if answer]
        if len(answers) != 2:
            return Finding(False, f"{len(answers)} answers parted by {_PARTING}; 2 wanted")
        return Finding(answers[0] != answers[1], "two answers" + (", which are the same" if answers[0] == answers[1] else ""))


class RepeatPrompt(Constraint):
    """The text begins with the request, word for word."""

    id: Literal["combination:repeat_prompt"] = "combination:repeat_prompt"
    prompt_to_repeat: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]

    def check(self, text: Text) -> Finding:
        """Case and white space at the beginning do not count."""
        kept = text.whole.strip().casefold().startswith(self.prompt_to_repeat.casefold())
        return Finding(kept, f"begins {'' if kept else 'not '}with the request {self.prompt_to_repeat[:60]!r}")
