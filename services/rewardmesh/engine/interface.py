"""What every engine offers a service, whoever computes: transformers in this process, vLLM, Triton, an OpenAI-compatible endpoint.

An engine need not be able to do everything. What it cannot do raises `NotSupportedError`, and `abilities` says so before anybody asks,
so that a service refuses the wrong engine when it starts and not at the first call. Tokenising stays on our side: engines get token
ids, never text that they would tokenise in their own way.
"""

from __future__ import annotations

import threading
from abc import ABC
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.writing import WritingOptions, Written

Ability = Literal["scores", "token_scores", "token_statistics", "label_log_probs", "sample", "write"]
Pair = tuple[TokenIds, TokenIds]
"""Prompt ids and completion ids, neither empty."""


class NotSupportedError(Exception):
    """The engine behind a model cannot do what was asked; says which engine and what."""


class ServedModel(ABC):
    """One version of one model, ready to be asked. Its methods block: they are called on the thread that owns the model.

    Attributes:
        name, version, fingerprint: identity, as in `ModelRef`.
        engine: who computes: "transformers", "vllm", "vllm-server", "triton", "openai".
        abilities: the methods that work.
        tokenizer: transformers tokenizer of the model.
        packed: whether prompts of a batch are shared by our packed forward; else `reason` says why not.
        computed_by: who computes that forward, "native" (our compiled library) or "torch"; "" for other engines.
        computed_by_reason: why not the compiled library.
        batch_invariant: whether a score is the same to the bit whatever is computed with it.
        max_tokens: longest input in tokens.
        dtype, device_name: of the weights, "" where the engine does not tell.
        parameters: number of them, 0 where the engine does not tell.
        vocabulary: number of token ids that the model takes.
        eos_ids: tokens that end a completion.
        bills: whether the tokens computed are what an endpoint counts and bills; else what is read is counted by the ids.
        output_names: names of a classification head's outputs, in order; empty for a model without one.
    """

    name: str
    version: int
    fingerprint: str
    engine: str
    abilities: frozenset[Ability]
    tokenizer: Any
    packed: bool
    reason: str
    computed_by: str = ""
    computed_by_reason: str = ""
    batch_invariant: bool = False
    bills: bool = False

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens."""
        raise NotImplementedError

    @property
    def dtype(self) -> str:
        """Name of the weights' type."""
        return ""

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return ""

    @property
    def parameters(self) -> int:
        """How many there are."""
        return 0

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self.tokenizer)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""
        eos = self.tokenizer.eos_token_id
        return () if eos is None else (int(eos),)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the head's outputs."""
        return ()

    def shareable(self, tokens: int) -> int:
        """How many tokens of a prefix that items of a batch have in common are really computed once."""
        return 0

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """Raw outputs of the classification head at each sequence's last token (no softmax, no sigmoid).

        Returns:
            For each sequence its outputs, and the tokens really computed for it.
        """
        raise self._cannot("scores")

    def token_scores(self, sequences: Sequence[tuple[TokenIds, int]]) -> list[tuple[list[list[float]], int]]:
        """As `scores`, at each of a sequence's tokens from the stated position on; the last row is the sequence's score.

        Returns:
            For each sequence a row of outputs a token, and the tokens really computed for it.
        """
        raise self._cannot("token_scores")

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """Log-probabilities (nats, logits divided by `temperature`) of every completion token, and the statistics that `extras` names.

        Returns:
            For each pair its statistics on the CPU, and the tokens really computed for it.
        """
        raise self._cannot("token_statistics")

    def label_log_probs(self, questions: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
        """Log-probabilities (nats, over the whole vocabulary) of a few tokens right after each question.

        Returns:
            For each question one value a label, in order, and the tokens really computed for it.
        """
        raise self._cannot("label_log_probs")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        emit: Callable[[Sampled], None],
        *,
        row_keys: Sequence[str],
        ends: Callable[[list[int]], bool] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Sample completions and emit each as it ends; see `sampling.sample`."""
        raise self._cannot("sample")

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """Write n texts for each prompt, those of a prompt in the order of their index.

        Args:
            prompts: token ids as `engine.text.prompt_ids` gives them, each shorter than `max_tokens`.
            row_keys: identities of the prompts for the random streams, as for `sample`.
            cancelled: when set, what is unfinished ends as "aborted".

        Raises:
            NotSupportedError: the engine cannot follow the grammar; says why and what would help.
            ItemsLostError: an engine elsewhere lost some prompts; the others' texts are in it.
            ValueError: a prompt that leaves no room, or an empty stop text.
        """
        raise self._cannot("write")

    def trim(self) -> None:  # noqa: B027 - most engines keep nothing of the kind
        """Free what can be computed again; called when another version becomes active."""

    def close(self) -> None:  # noqa: B027 - most engines hold nothing outside
        """Let go of what the engine holds outside this process (connections, worker processes)."""

    def _cannot(self, what: str) -> NotSupportedError:
        return NotSupportedError(f"the {self.engine} engine of model {self.name!r} does not offer {what}")
