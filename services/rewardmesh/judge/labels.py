"""Label words as single tokens of a model, as its tokenizer continues right after the prompt.

A verdict is read from the next token's distribution, so every label must be one token there. Each version of the model has its own
tokenizer, so this is found anew for each, when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.text import chat
from rewardmesh.judge.template import JudgeTemplate
from rewardmesh.serving.logs import get_logger
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)


class Labels:
    """The label tokens of every template, for each loaded version.

    Args:
        templates: all of them.
        required: names of those without which a model is refused; others it may not be able to express.
    """

    def __init__(self, templates: Iterable[JudgeTemplate], required: Collection[str]) -> None:
        self._templates = tuple(templates)
        self._required = required
        self._found: WeakKeyDictionary[ServedModel, Mapping[str, tuple[int, ...] | str]] = WeakKeyDictionary()
        self._controls: WeakKeyDictionary[ServedModel, re.Pattern[str]] = WeakKeyDictionary()

    def check(self, model: ServedModel) -> None:
        """Find the label tokens of a version.

        Raises:
            LoadError: a required template has a label that is not one token; names template and label.
        """
        found: dict[str, tuple[int, ...] | str] = {}
        for template in self._templates:
            try:
                found[template.name] = label_tokens(model.tokenizer, template)
            except LoadError as error:
                if template.name in self._required:
                    raise
                log.info("template not usable with this model", template=template.name, reason=str(error))
                found[template.name] = str(error)
        self._controls[model] = control_tokens(model.tokenizer)
        self._found[model] = found

    def of(self, model: ServedModel, template: JudgeTemplate) -> tuple[int, ...] | str:
        """Token id of each of the template's labels, or the reason why this version cannot use it."""
        return self._found[model][template.name]

    def defuse(self, model: ServedModel, text: str) -> str:
        """The text with the model's control tokens broken up by a space, so that it cannot end its turn or begin another."""
        return self._controls[model].sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def label_tokens(tokenizer: Any, template: JudgeTemplate) -> tuple[int, ...]:
    """Token id of each label right after the generation prompt: the label as it stands, else with a space before it.

    Raises:
        LoadError: a label that is several tokens, unknown to the vocabulary, or the same token as another.
    """
    context = _context(tokenizer)
    before = _ids(tokenizer, context)
    found: dict[int, str] = {}
    for label in template.labels:
        for form in (label, f" {label}"):
            ids = _ids(tokenizer, context + form)
            # An unknown word is one token too, the same for all of them.
            if len(ids) == len(before) + 1 and ids[:-1] == before and ids[-1] != tokenizer.unk_token_id:
                break
        else:
            raise LoadError(
                f"{template.source}: template {template.name!r}: label {label!r} is not a single token of the model's vocabulary"
            )
        if ids[-1] in found:
            raise LoadError(f"{template.source}: template {template.name!r}: labels {found[ids[-1]]!r} and {label!r} are the same token")
        found[ids[-1]] = label
    return tuple(found)


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches any token that the tokenizer reads as control, never as text."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _context(tokenizer: Any) -> str:
    """The end of any prompt as `engine.text.prompt_ids` writes it."""
    question = pb.Message(role=pb.ROLE_USER, content="Which?")
    if tokenizer.chat_template is None:
        return f"{question.content}\n"
    text: str = tokenizer.apply_chat_template(chat([question]), add_generation_prompt=True, tokenize=False)
    return text


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
