"""The rows of a sampling call as vLLM is asked for them: one request a completion, each with a seed of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.writing import Grammar, JsonGrammar

Ends = Callable[[list[int]], bool]
"""Whether a completion ends with its last token."""


@dataclass(frozen=True)
class Row:
    """One completion to sample.

    Attributes:
        prompt, index: which prompt, and which of its n.
        prompt_ids: token ids of the prompt.
        max_tokens: most tokens; less than asked for where the context ends first.
        seed: of its random stream.
    """

    prompt: int
    index: int
    prompt_ids: list[int]
    max_tokens: int
    seed: int

    def sampled(self, token_ids: Sequence[int], log_probs: Sequence[float], finish: str | None, ends: Ends | None = None) -> Sampled:
        """The completion from what vLLM gave, cut at the first token that the stop rule ends it with."""
        if len(token_ids) != len(log_probs):
            raise ValueError(f"{len(token_ids)} tokens with {len(log_probs)} log-probabilities")
        kept = end_of(token_ids, ends)
        ids, values = list(token_ids[:kept]), list(log_probs[:kept])
        reason: Literal["stop", "length", "non_finite"] = "stop" if finish == "stop" or kept < len(token_ids) else "length"
        if ends is not None and ids and ends(ids):
            reason = "stop"
        # The server writes -9999 for what is not finite.
        if not all(math.isfinite(value) and value > -9999 for value in values):
            reason = "non_finite"
        return Sampled(self.prompt, self.index, ids, values, reason)


def end_of(token_ids: Sequence[int], ends: Ends | None) -> int:
    """How many tokens there are up to the first that ends the completion."""
    if ends is not None:
        for count in range(1, len(token_ids)):
            if ends(list(token_ids[:count])):
                return count
    return len(token_ids)


def rows_of(prompts: Sequence[Sequence[int]], options: SamplingOptions, row_keys: Sequence[str], context: int) -> list[Row]:
    """All completions of a call; `context` is the most tokens that prompt and completion may have together."""
    return [
        Row(number, index, list(prompt), min(options.max_tokens, context - len(prompt)), row_seed(options.seed, row_keys[number], index))
        for number, prompt in enumerate(prompts)
        for index in range(options.n)
    ]


def row_seed(seed: int, key: str, index: int) -> int:
    """Seed of one row: a function of the call's seed, the prompt's key and the index alone, below 2**63."""
    digest = hashlib.blake2b(f"{seed}\0{key}\0{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sampling_fields(row: Row, options: SamplingOptions) -> dict[str, Any]:
    """Sampling parameters, by vLLM's names; all of them, as a server may have other defaults."""
    drawn = options.temperature > 0
    return {
        "n": 1,
        "temperature": options.temperature,
        # Greedy choice is not truncated: its log-probabilities are those of the whole distribution at temperature 1.
        "top_p": options.top_p if drawn else 1.0,
        "top_k": options.top_k if drawn else 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": row.max_tokens,
        "seed": row.seed if drawn else None,
        "stop_token_ids": list(options.eos_ids),
        "ignore_eos": True,  # those above are all
        "skip_special_tokens": False,
    }


def structured_fields(grammar: Grammar) -> dict[str, Any]:
    """A grammar by the names of vLLM's structured outputs."""
    return {"json": grammar.schema} if isinstance(grammar, JsonGrammar) else {"choice": list(grammar.words)}
