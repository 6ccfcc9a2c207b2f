"""Sample completions with a KV cache: every row has its own random stream, so a seed fixes it whatever it is batched with.

Tokens are drawn by inverse transform from exp(log_softmax(logits / temperature)); the log-probability returned is that of the very
distribution the token was drawn from. Prompts are computed once and repeated for their n completions; rows that have ended are
dropped from the cache when half are done.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import DynamicCache

if TYPE_CHECKING:  # it imports the engines' interface, which imports this module
    from rewardmesh.engine.constrained import Follower


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Attributes:
        n: completions a prompt, at least 1.
        temperature: divides the logits; 0 is greedy (log-probabilities are then those at temperature 1).
        top_p, top_k: truncation of the support; 1 and 0 for none. Log-probabilities are over the truncated support.
        max_tokens: most tokens a completion; less where the model's context ends first.
        seed: fixes every row's random stream together with the row's prompt and index.
        eos_ids: tokens that end a completion; kept in it.
    """

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    eos_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """One completion.

    Attributes:
        prompt: index of its prompt.
        index: which of the n.
        token_ids: with the end-of-sequence token when there is one.
        log_probs: nats, one a token.
        finish: "stop", "length", "non_finite" (the model computed NaN), or "aborted".
    """

    prompt: int
    index: int
    token_ids: list[int]
    log_probs: list[float]
    finish: Literal["stop", "length", "non_finite", "aborted"]


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    emit: Callable[[Sampled], None],
    *,
    row_keys: Sequence[str] | None = None,
    ends: Callable[[list[int]], bool] | None = None,
    follow: Callable[[], Follower] | None = None,
    cancelled: threading.Event | None = None,
) -> None:
    """Sample n completions for each prompt and emit each as it ends; runs on the engine's thread.

    Args:
        prompts: token ids, none empty, each shorter than the model's context.
        row_keys: identities of the prompts for the random streams; default their positions.
        ends: extra stop rule on a completion's tokens so far.
        follow: makes what says, for each completion, which tokens may come next; log-probabilities are then over these.
        cancelled: when set, what is unfinished is emitted as aborted.
    """
    state = _Rows(model, prompts, options, row_keys or [str(i) for i in range(len(prompts))], follow)
    with torch.inference_mode():
        logits = state.prefill()
        for step in range(max(state.limits)):
            if cancelled is not None and cancelled.is_set():
                break
            ids, log_probs = state.draw(logits, step)
            ended = []
            for row, (token, log_prob) in enumerate(zip(ids.tolist(), log_probs.tolist(), strict=True)):
                finish = state.append(row, token, log_prob, ends)
                if finish:
                    emit(state.finished(row, finish))
                    ended.append(row)
            if not state.drop(ended):
                return
            logits = state.advance()
    for row in state.live_rows():
        emit(state.finished(row, "aborted"))


class _Rows:
    """The rows still in the cache; a row that has ended stays until the next compaction, silent."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        keys: Sequence[str],
        follow: Callable[[], Follower] | None,
    ) -> None:
        self.model = model
        self.options = options
        self.device = next(model.parameters()).device
        self.prompts = [list(ids) for ids in prompts]
        n = options.n
        self.owner = [(p, i) for p in range(len(prompts)) for i in range(n)]
        self.context = int(getattr(model.config, "max_position_embeddings", 2**31 - 1))
        self.limits = [min(options.max_tokens, self.context - len(self.prompts[p])) for p, _ in self.owner]
        self.tokens: list[list[int]] = [[] for _ in self.owner]
        self.log_probs: list[list[float]] = [[] for _ in self.owner]
        self.live = [True] * len(self.owner)
        self.followers = [follow() for _ in self.owner] if follow else []
        self.noise = (
            np.stack([_uniform(options.seed, keys[p], i, max(self.limits)) for p, i in self.owner])
            if options.temperature > 0
            else np.zeros((len(self.owner), 1))
        )
        self.cache: Any = DynamicCache(config=model.config)
        longest = max(map(len, self.prompts))
        self.mask = torch.zeros(len(prompts), longest, dtype=torch.int64, device=self.device)
        self.positions = torch.tensor([len(ids) for ids in self.prompts], device=self.device)

    def prefill(self) -> torch.Tensor:
        """Compute the prompts, left-padded, once each; logits [rows, V] of the first token."""
        longest = self.mask.shape[1]
        ids = torch.zeros_like(self.mask)
        for row, prompt in enumerate(self.prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=self.device)
            self.mask[row, longest - len(prompt) :] = 1
        positions = (self.mask.cumsum(1) - 1).clamp_(min=0)
        out = self.model(
            input_ids=ids, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        n = self.options.n
        if n > 1:
            self.cache.batch_repeat_interleave(n)
        self.mask = self.mask.repeat_interleave(n, dim=0)
        self.positions = self.positions.repeat_interleave(n)
        logits: torch.Tensor = out.logits[:, -1].repeat_interleave(n, dim=0)
        return logits

    def draw(self, logits: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Next token of each row and its log-probability."""
        options = self.options
        if self.followers:
            logits = logits.masked_fill(self.forbidden(logits.shape[-1]), -torch.inf)
        log_probs = torch.log_softmax(logits.float() / (options.temperature or 1.0), dim=-1)
        if options.temperature == 0:
            ids = log_probs.argmax(dim=-1)
        else:
            log_probs = _truncate(log_probs, options.top_p, options.top_k)
            cumulative = log_probs.double().exp().cumsum(dim=-1)
            uniform = torch.from_numpy(self.noise[:, step : step + 1]).to(self.device) * cumulative[:, -1:]
            # The first token whose cumulated mass exceeds u; never one of zero mass.
            ids = torch.searchsorted(cumulative, uniform, right=True).clamp_(max=log_probs.shape[-1] - 1)[:, 0]
        self.last = ids
        return ids, log_probs.gather(1, ids[:, None])[:, 0]

    def forbidden(self, vocabulary: int) -> torch.Tensor:
        """[rows, V]: which tokens the grammar does not let a row go on with; rows that have ended may do anything."""
        allowed = np.ones((len(self.owner), vocabulary), dtype=np.bool_)
        for row in self.live_rows():
            self.followers[row].allow(allowed[row])
        return torch.from_numpy(~allowed).to(self.device)

    def append(
        self, row: int, token: int, log_prob: float, ends: Callable[[list[int]], bool] | None
    ) -> Literal["stop", "length", "non_finite"] | None:
        """Add a token to a row; returns why it ends now, or None."""
        if not self.live[row]:
            return None
        if not np.isfinite(log_prob):
            return "non_finite"
        self.tokens[row].append(token)
        self.log_probs[row].append(log_prob)
        if token in self.options.eos_ids or (ends is not None and ends(self.tokens[row])):
            return "stop"
        if self.followers and (finish := self.followers[row].take(token)):
            return finish
        return "length" if len(self.tokens[row]) >= self.limits[row] else None

    def finished(self, row: int, finish: Literal["stop", "length", "non_finite", "aborted"]) -> Sampled:
        """The row's completion."""
        prompt, index = self.owner[row]
        return Sampled(prompt, index, self.tokens[row], self.log_probs[row], finish)

    def live_rows(self) -> list[int]:
        """Rows that have not ended."""
        return [row for row, live in enumerate(self.live) if live]

    def drop(self, ended: Sequence[int]) -> bool:
        """Mark rows as ended, compact when half are; False when none is left."""
        for row in ended:
            self.live[row] = False
        kept = self.live_rows()
        if not kept:
            return False
        if len(kept) * 2 <= len(self.live):
            index = torch.tensor(kept, device=self.device)
            self.cache.batch_select_indices(index)
            self.mask, self.positions, self.last = self.mask[index], self.positions[index], self.last[index]
            self.noise = self.noise[kept]
            for name in ("owner", "limits", "tokens", "log_probs", "live", "followers"):
                values = getattr(self, name)
                setattr(self, name, [values[row] for row in kept] if values else [])
        return True

    def advance(self) -> torch.Tensor:
        """Compute the tokens just drawn; logits [rows, V] of the next."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        out = self.model(
            input_ids=self.last[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        # Rows that have ended stay for a while; their position must not leave the context.
        self.positions = (self.positions + 1).clamp_(max=self.context - 1)
        logits: torch.Tensor = out.logits[:, -1]
        return logits


def _truncate(log_probs: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Renormalised log-probabilities over the nucleus or the k most likely; the rest is -inf."""
    if top_p >= 1 and not top_k:
        return log_probs
    ordered, index = log_probs.sort(dim=-1, descending=True)
    outside = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k:
        outside[:, top_k:] = True
    if top_p < 1:
        probs = ordered.exp()
        outside |= probs.cumsum(dim=-1) - probs >= top_p
    ordered = torch.log_softmax(ordered.masked_fill(outside, -torch.inf), dim=-1)
    return torch.empty_like(ordered).scatter_(1, index, ordered)


def _uniform(seed: int, key: str, index: int, length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The random stream of one row: uniform in [0, 1), a function of seed, prompt and index alone."""
    digest = hashlib.blake2b(f"{seed}\0{key}\0{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(length)
