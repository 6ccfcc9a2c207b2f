"""Grammars over tokens: which tokens may come next, so that the text that is written is one of a JSON schema's documents or of a few words.

llguidance (guidance-ai) follows grammars over byte-level and sentence-piece vocabularies. It cannot read tokenizers that write whole words
one after the other, as small ones that are made on the spot do; for these the choice among words is followed here, token by token.
JSON is written on one line, with at most a space after commas and colons: a weak model that may write blanks writes them for ever.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from rewardmesh.engine.interface import NotSupportedError
from rewardmesh.engine.writing import ChoiceGrammar, Grammar, JsonGrammar
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""In the words of llguidance; separators are regular expressions."""
KEPT = 64
"""Compiled grammars that are kept; templates and rubrics have one each."""

Allowed = npt.NDArray[np.bool_]


class Follower(Protocol):
    """The place of one text in its grammar."""

    def allow(self, row: Allowed) -> None:
        """Fill [V] with which tokens may come next."""

    def take(self, token: int) -> Literal["stop", "length"] | None:
        """Go on by a token that was allowed; "stop" when nothing can follow, "length" when the grammar cannot be followed any further."""


class Grammars:
    """Compiles grammars for one tokenizer, each once; safe to use from several threads.

    Args:
        tokenizer: a fast transformers tokenizer.
        vocabulary: number of logits.
        eos_ids: tokens that end a text.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, eos_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos_ids = eos_ids
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, LLMatcher | _Words] = OrderedDict()
        self._read: LLTokenizer | str | None = None

    def follower(self, grammar: Grammar) -> Follower:
        """A follower at the beginning of a text.

        Raises:
            NotSupportedError: the grammar is none, or cannot be followed with this tokenizer; says why.
        """
        with self._lock:
            compiled = self._compiled.get(grammar) or self._compile(grammar)
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            if isinstance(compiled, LLMatcher):
                return _Matched(compiled.deep_copy())
            return _Chosen(compiled)

    def _compile(self, grammar: Grammar) -> LLMatcher | _Words:
        check_grammar(grammar)
        if not self._eos_ids:
            raise NotSupportedError("grammar: the model has no end-of-sequence token, by which a constrained text could end")
        if self._read is None:
            self._read = self._read_tokenizer()
        if isinstance(self._read, str):
            if isinstance(grammar, JsonGrammar):
                raise NotSupportedError(f"grammar: this tokenizer writes no JSON by a schema: {self._read}; choices among words work")
            return _Words(self._tokenizer, grammar.words, self._eos_ids, self._read)
        matcher = LLMatcher(self._read, _source(grammar), log_level=0)
        if matcher.is_error():
            raise NotSupportedError(f"grammar: cannot be followed: {_first_line(matcher.get_error())}")
        return matcher

    def _read_tokenizer(self) -> LLTokenizer | str:
        """What llguidance makes of the tokenizer, or why nothing."""
        try:
            return from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=list(self._eos_ids))
        except ValueError as error:
            return f"llguidance cannot read it ({_first_line(str(error))})"


def check_grammar(grammar: Grammar) -> None:
    """What any engine refuses.

    Raises:
        NotSupportedError: no words, an empty one, one twice, or a schema that is no JSON.
    """
    if isinstance(grammar, ChoiceGrammar):
        if not grammar.words or not all(grammar.words) or len(set(grammar.words)) < len(grammar.words):
            raise NotSupportedError(f"grammar.words: must be different and not empty, are {list(grammar.words)}")
        return
    try:
        schema = json.loads(grammar.schema)
    except ValueError as error:
        raise NotSupportedError(f"grammar.schema: is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise NotSupportedError(f"grammar.schema: must be a JSON object, is {type(schema).__name__}")


def bounded(grammar: Grammar) -> Grammar:
    """The grammar with our bound on white space, as llguidance reads it."""
    if isinstance(grammar, ChoiceGrammar):
        return grammar
    return JsonGrammar(json.dumps(json.loads(grammar.schema) | {"x-guidance": SPACING}))


class _Matched:
    """By llguidance."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allow(self, row: Allowed) -> None:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[: len(row)]
        row[: len(bits)] = bits
        row[len(bits) :] = False

    def take(self, token: int) -> Literal["stop", "length"] | None:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            # A limit of the parser, say: whatever has been written so far is no text of the grammar.
            log.warning("a grammar cannot be followed any further", error=_first_line(self._matcher.get_error()))
            return "length"
        return "stop" if self._matcher.is_stopped() else None


class _Words:
    """Words of which each token writes a whole piece, and all ways to write them.

    Raises:
        NotSupportedError: tokens do not write their own text, or no sequence of them writes a word.
    """

    def __init__(self, tokenizer: Any, words: tuple[str, ...], eos_ids: tuple[int, ...], problem: str) -> None:
        backend = tokenizer.backend_tokenizer
        decoder = json.loads(backend.to_str())["decoder"] or {}
        if decoder.get("type") != "Fuse":
            raise NotSupportedError(
                f"grammar: this tokenizer cannot be constrained: {problem}, and it does not write its tokens as they are"
            )
        special = set(tokenizer.all_special_ids)
        self._ids = {text: token for text, token in tokenizer.get_vocab().items() if token not in special and text}
        self._longest = max(map(len, self._ids))
        self._next: dict[str, dict[int, str]] = {}
        self.words = words
        self.eos_ids = eos_ids
        # From each word's end on, so that what `after` looks up is known already.
        unwritable = [word for word in words if not [self.after(word[start:]) for start in reversed(range(len(word)))][-1]]
        if unwritable:
            raise NotSupportedError(f"grammar.words: the vocabulary has no tokens for {unwritable[0]!r}; use words that the model knows")

    def after(self, rest: str) -> dict[int, str]:
        """The tokens that a text may go on with, and what is left to write after each; never one after which nothing fits."""
        if rest not in self._next:
            found = {}
            for end in range(1, min(len(rest), self._longest) + 1):
                token, left = self._ids.get(rest[:end]), rest[end:]
                if token is not None and (not left or self.after(left)):
                    found[token] = left
            self._next[rest] = found
        return self._next[rest]


class _Chosen:
    """By the tokens of a few words."""

    def __init__(self, words: _Words) -> None:
        self._words = words
        self._rests = list(words.words)

    def allow(self, row: Allowed) -> None:
        row[:] = False
        for rest in self._rests:
            row[list(self._words.after(rest)) if rest else list(self._words.eos_ids)] = True

    def take(self, token: int) -> Literal["stop", "length"] | None:
        if token in self._words.eos_ids:
            return "stop"
        self._rests = [after[token] for rest in self._rests if token in (after := self._words.after(rest))]
        return None if any(self._rests) else "stop"


def _source(grammar: Grammar) -> str:
    """The grammar as llguidance reads it."""
    grammar = bounded(grammar)
    if isinstance(grammar, JsonGrammar):
        return LLMatcher.grammar_from_json_schema(grammar.schema)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(word, ensure_ascii=False) for word in grammar.words))


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
