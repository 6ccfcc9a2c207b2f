"""Reads the tool calls of a trajectory from its text: who was called with what, what came back, and what was said last.

Two forms: JSON objects in tags, as models of the Hermes and Qwen families write them, and a JSON list of messages in OpenAI's form. What
does not parse is a call too, a malformed one: its writer is responsible. Linear in the text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rewardmesh.verifier.strict_json import read_json


@dataclass(slots=True)
class Call:
    """One tool call."""

    name: str
    """Empty when it could not be read."""
    arguments: dict[str, Any]
    span: tuple[int, int] | None
    """Code-point offsets [start, end), with its tags; None in OpenAI's form."""
    problem: str = ""
    """Why it could not be read; empty when it could."""
    response: str | None = None
    """What the tool answered; None when nothing."""
    place: int = 0
    """Where it was made: code-point offset, or number of the message in OpenAI's form."""
    answered: int = 0
    """Where the response stands, likewise."""


@dataclass(slots=True)
class Trajectory:
    """The calls in order, and the text behind the last call and response."""

    calls: list[Call] = field(default_factory=list)
    answer: str = ""
    answer_span: tuple[int, int] | None = None


def from_tags(text: str, call_tag: str, response_tag: str) -> Trajectory:
    """Reads `<call_tag>{"name": ..., "arguments": {...}}</call_tag>` and responses in tags, which answer the calls before them in order."""
    opened, closed, answered, done = (_Mark(text, f"<{name}>") for name in (call_tag, f"/{call_tag}", response_tag, f"/{response_tag}"))
    found = Trajectory()
    waiting: deque[Call] = deque()
    at = 0
    while min(call_at := opened.after(at), response_at := answered.after(at)) < len(text):
        if call_at < response_at:
            start = call_at + len(opened.mark)
            end, again = closed.after(start), opened.after(start)
            if end == len(text) or again < end:
                at = again
                call = Call("", {}, (call_at, at), f"{opened.mark} is not closed")
            else:
                at = end + len(closed.mark)
                call = _read(text[start:end], (call_at, at))
            call.place = call_at
            found.calls.append(call)
            waiting.append(call)
        else:
            start = response_at + len(answered.mark)
            end = done.after(start)
            at = min(len(text), end + len(done.mark))
            if waiting:
                call = waiting.popleft()
                call.response, call.answered = text[start:end].strip(), response_at
    rest = text[at:]
    found.answer = rest.strip()
    if found.answer:
        start = at + len(rest) - len(rest.lstrip())
        found.answer_span = (start, start + len(found.answer))
    return found


def from_messages(text: str) -> Trajectory:
    """Reads a JSON list of messages (or one message): `tool_calls` of the assistant, responses by `tool_call_id`."""
    try:
        messages = read_json(text)
    except ValueError as error:
        return Trajectory([Call("", {}, None, f"the completion is no JSON: {error}")])
    messages = messages if isinstance(messages, list) else [messages]
    found = Trajectory()
    by_id: dict[str, Call] = {}
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            found.calls.append(Call("", {}, None, f"message {number} is no object"))
            continue
        content = _content(message.get("content"))
        if message.get("role") == "tool":
            call = by_id.get(str(message.get("tool_call_id")))
            if call is not None:
                call.response, call.answered = content, number
            found.answer = ""
            continue
        given = message.get("tool_calls") or []
        for one in given if isinstance(given, list) else [given]:
            call = _read_function(one)
            call.place = number
            found.calls.append(call)
            if isinstance(one, dict):
                by_id[str(one.get("id"))] = call
        found.answer = "" if given else content
    return found


class _Mark:
    """Finds a tag again and again, from places that only rise, without reading any text twice."""

    def __init__(self, text: str, mark: str) -> None:
        self.mark = mark
        self._text = text
        self._at = -1

    def after(self, place: int) -> int:
        """Where the tag next begins, at `place` or later; the text's length when nowhere."""
        if self._at < place:
            at = self._text.find(self.mark, place)
            self._at = len(self._text) if at < 0 else at
        return self._at


def _content(content: Any) -> str:
    """The text of a message: a text, or the texts among its parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _read(body: str, span: tuple[int, int]) -> Call:
    try:
        value = read_json(body)
    except ValueError as error:
        return Call("", {}, span, f"no JSON: {error}")
    return _checked(value, span)


def _read_function(one: Any) -> Call:
    if not isinstance(one, dict) or not isinstance(one.get("function"), dict):
        return Call("", {}, None, 'a tool call without a "function"')
    return _checked(one["function"], None)


def _checked(value: Any, span: tuple[int, int] | None) -> Call:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return Call("", {}, span, 'no object with a "name"')
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            return Call(value["name"], {}, span, f"arguments are no JSON: {error}")
    if not isinstance(arguments, dict):
        return Call(value["name"], {}, span, '"arguments" is no object')
    return Call(value["name"], arguments, span)
