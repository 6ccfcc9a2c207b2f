"""Label words as the tokens that a model would answer with, as its tokenizer continues right after the prompt.

A verdict is read from label probabilities. Where each word is one token, that is the next token's distribution, read once. A word of
several tokens is read token by token: the words are the paths of a tree, each of its inner nodes is one reading, and the log-probability
of a word is the sum along its path. Engines that cannot go on after the first token read that one, if it tells the words apart. Each
version of the model has its own tokenizer, so the tree is found anew for each, when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.text import chat
from rewardmesh.judge.template import JudgeTemplate, Scale
from rewardmesh.serving.logs import get_logger
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

Path = tuple[int, ...]
"""Token ids."""


@dataclass(frozen=True)
class LabelTree:
    """The words of a scale as token ids; no word's path begins another's."""

    paths: tuple[Path, ...]

    @property
    def nodes(self) -> tuple[tuple[Path, Path], ...]:
        """Inner nodes: (tokens after the prompt, tokens that may follow), the root first."""
        children: dict[Path, list[int]] = {}
        for path in self.paths:
            for depth, token in enumerate(path):
                following = children.setdefault(path[:depth], [])
                if token not in following:
                    following.append(token)
        return tuple((prefix, tuple(tokens)) for prefix, tokens in children.items())

    def log_probs(self, readings: Iterable[Sequence[float]]) -> list[float]:
        """Log-probability (nats) of each word from what was read at each node, in the order of `nodes`."""
        steps = {
            (prefix, token): value
            for (prefix, tokens), values in zip(self.nodes, readings, strict=True)
            for token, value in zip(tokens, values, strict=True)
        }
        return [sum(steps[path[:depth], token] for depth, token in enumerate(path)) for path in self.paths]


class Labels:
    """The label tokens of every template, for each loaded version.

    Args:
        templates: all of them.
        required: names of those without which a model is refused; others it may not be able to express.
    """

    def __init__(self, templates: Iterable[JudgeTemplate], required: Collection[str]) -> None:
        self._templates = tuple(templates)
        self._required = required
        self._found: WeakKeyDictionary[ServedModel, Mapping[str, Mapping[Scale, LabelTree] | str]] = WeakKeyDictionary()
        self._controls: WeakKeyDictionary[ServedModel, re.Pattern[str]] = WeakKeyDictionary()

    def check(self, model: ServedModel) -> None:
        """Find out which templates a version can be asked with.

        Raises:
            LoadError: not with a required one; names template and label, or what the engine lacks.
        """
        found: dict[str, Mapping[Scale, LabelTree] | str] = {}
        for template in self._templates:
            try:
                check_abilities(model, template)
                found[template.name] = {} if written(model, template) else trees(model, template)
            except LoadError as error:
                if template.name in self._required:
                    raise
                found[template.name] = str(error)
        if refused := {name: reason for name, reason in found.items() if isinstance(reason, str)}:
            log.info("templates not usable with this model", templates=sorted(refused), first=next(iter(refused.values())))
        self._controls[model] = control_tokens(model.tokenizer)
        self._found[model] = found

    def of(self, model: ServedModel, template: JudgeTemplate) -> Mapping[Scale, LabelTree] | str:
        """The tree of each of the template's scales (none where the verdict is written), or why this version cannot use it."""
        return self._found[model][template.name]

    def defuse(self, model: ServedModel, text: str) -> str:
        """The text with the model's control tokens broken up by a space, so that it cannot end its turn or begin another."""
        return self._controls[model].sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def written(model: ServedModel, template: JudgeTemplate) -> bool:
    """Whether the model writes its verdict: the template says so, it is a critique, or the engine gives no label probabilities."""
    return template.written or template.kind == "critique" or "label_log_probs" not in model.abilities


def check_abilities(model: ServedModel, template: JudgeTemplate) -> None:
    """Raise LoadError when the engine lacks what the template asks for."""
    if "write" not in model.abilities and (template.hops or written(model, template)):
        what = "has hops" if template.hops else "wants a verdict in words"
        raise LoadError(f"{template.source}: template {template.name!r} {what}; the {model.engine} engine of {model.name!r} cannot write")


def trees(model: ServedModel, template: JudgeTemplate) -> dict[Scale, LabelTree]:
    """The label tree of each scale of a template.

    Raises:
        LoadError: a label that cannot be read; names it.
    """
    whole = "token_statistics" in model.abilities  # such an engine can be asked what follows the first token
    found: dict[Scale, LabelTree] = {}
    for scale in {template.scale, *(criterion.scale for criterion in template.criteria if criterion.scale)}:
        try:
            paths = label_paths(model.tokenizer, scale.words, whole_words=whole)
        except LoadError as error:
            raise LoadError(f"{template.source}: template {template.name!r}: {error}") from error
        found[scale] = LabelTree(paths)
        if template.kind == "rank":  # a shorter list has the first of them
            found |= {Scale(scale.words[:size]): LabelTree(paths[:size]) for size in range(2, len(paths))}
    return found


def label_paths(tokenizer: Any, words: Sequence[str], *, whole_words: bool = True) -> tuple[Path, ...]:
    """Token ids of each word right after the generation prompt: the word as it stands, else with a space before it.

    Args:
        whole_words: whether words of several tokens can be read; else their first tokens must tell them apart.

    Raises:
        LoadError: a word unknown to the vocabulary, the same as another, or the beginning of another.
    """
    context = _context(tokenizer)
    before = _ids(tokenizer, context)
    found: dict[Path, str] = {}
    for word in words:
        forms = [ids[len(before) :] for form in (word, f" {word}") if (ids := _ids(tokenizer, context + form))[: len(before)] == before]
        # An unknown word is one token too, the same for all of them.
        known = [tuple(form) for form in forms if form and tokenizer.unk_token_id not in form]
        if not known:
            raise LoadError(f"label {word!r} has no tokens in the model's vocabulary")
        path = next((form for form in known if len(form) == 1), known[0])
        path = path if whole_words else path[:1]
        if path in found:
            same = "the same tokens" if whole_words else "the same first token, and this engine reads no more than one"
            raise LoadError(f"labels {found[path]!r} and {word!r} are {same}")
        found[path] = word
    for path, word in found.items():
        if longer := next((found[other] for other in found if len(other) > len(path) and other[: len(path)] == path), None):
            raise LoadError(f"label {word!r} is the beginning of {longer!r}: how probable it is by itself cannot be read")
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
