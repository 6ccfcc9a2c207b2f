"""What every sampler is to the loop: a few hooks that do nothing unless a sampler says otherwise, and how one is found by name.

A sampler is one module of this package with `Config` (a pydantic model) and `create(config)`. Hooks that are called while completions
arrive (`draw`, `recall`, `select`) must not change the sampler, for their order is that of the network; `choose`, `keep`, `further` and
`observe` are called once a round or step, over everything in the order of the prompts. Random choices come from `StepContext.rng`. So
what a sampler does is a function of the recipe, the step and its `state()`, and a resumed run repeats it to the bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from pydantic import BaseModel, ConfigDict

from rewardmesh.trainer.modules import known_modules, named_module
from rewardmesh.trainer.samples import FloatArray, Group, Rollout, Scores, Source

if TYPE_CHECKING:
    from rewardmesh.trainer.codec import Codec
    from rewardmesh.trainer.prompts import Prompt


_PACKAGE = "rewardmesh.trainer.samplers"


@dataclass(frozen=True)
class Draw:
    """Completions of one prompt that are to be sampled alike.

    Attributes:
        n: how many, at least 1.
        source: who writes them. "greedy" is the policy at temperature 0.
        checkpoint: for "checkpoint", the step after which that policy was the current one; 0 is the initial policy.
        reference_weight: for "mixture", w in pi^(1-w) * pi_ref^w, normalised token by token; below 0 or above 1 it extrapolates.
        prefix: token ids of an answer's beginning that the completions go on from; they are then part of the rollout's prompt.
    """

    n: int
    source: Literal["policy", "reference", "checkpoint", "mixture", "greedy"] = "policy"
    checkpoint: int = 0
    reference_weight: float = 0.0
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True)
class Given:
    """A completion that need not be sampled: its tokens, where it is from, and what is known of its sampling.

    `sampling_log_probs` float32[m], or None for a demonstration: the collector then takes those of the step's policy.
    `policy_version` is that of the policy that wrote it; 0 where none did.
    """

    completion_ids: tuple[int, ...]
    source: Source
    sampling_log_probs: FloatArray | None = None
    finish_reason: str = "stop"
    policy_version: int = 0


@dataclass(frozen=True)
class CheckpointRule:
    """Which earlier policy is drawn from: the newest after a multiple of `every` steps that is at least `lag` steps old.

    `every` 0 stands for the initial policy, always.
    """

    every: int
    lag: int = 0

    def at(self, step: int) -> int:
        """The step (0: the initial policy) after which the policy drawn from in `step` was the current one; never falls."""
        return max((step - 1 - self.lag) // self.every, 0) * self.every if self.every else 0

    def holds(self, step: int) -> bool:
        """Whether a later step draws from the policy after `step`."""
        return step % self.every == 0 if self.every else step == 0


@dataclass(frozen=True)
class StepContext:
    """What a hook may know of the step.

    Attributes:
        number: of the step, from 1.
        seed: of the run.
        size: prompts of a step, as the recipe says.
        prompts: every prompt by id.
        codec: the policy's tokenizer.
    """

    number: int
    seed: int
    size: int
    prompts: Mapping[str, Prompt]
    codec: Codec

    def rng(self, *names: str) -> np.random.Generator:
        """A stream of its own for each combination of run, step and names (of the sampler, of a prompt)."""
        return np.random.default_rng([self.seed, self.number, *(zlib.crc32(name.encode()) for name in names)])


class Asks(Protocol):
    """What a hook may ask the mesh; every call waits while a service is away, as the recipe's patience says."""

    async def reference(self, rollouts: Sequence[Rollout]) -> list[FloatArray | None]:
        """Per-token log-probs under the reference policy, float32 [m] each, None where absent."""
        ...

    async def scores(self, prompt: Prompt, rollouts: Sequence[Rollout], program: str) -> Sequence[Scores]:
        """What another (cheaper) program of the gateway says."""
        ...

    async def probe(self, prompts: Sequence[Prompt], n: int) -> Mapping[str, Sequence[Scores]]:
        """The recipe's program over n completions of the current policy for each prompt; they are not trained on."""
        ...


class SamplerConfig(BaseModel):
    """Options of a sampler."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sampler:
    """A sampler that changes nothing.

    Attributes:
        name: module name, as in the recipe.
        needs_logprob: asks the log-prob service.
        needs_policy_logits: draws from a mixture, so that the log-prob service must hold the step's policy too.
        completions_min: the least sampling.completions it can work with.
        selects: leaves rollouts unscored, so that scoring must wait for `select`.
        checkpoint: which earlier policy, or the reference (that is the initial one), it draws from; None for none.
    """

    name: str
    needs_logprob: bool = False
    needs_policy_logits: bool = False
    completions_min: int = 1
    selects: bool = False
    checkpoint: CheckpointRule | None = None

    async def prepare(self, context: StepContext, asks: Asks) -> None:
        """Called before the first prompts of a step are chosen; what is learned here goes into `state()`."""

    def candidates(self, size: int) -> int:
        """Prompts it wants to choose `size` from."""
        return size

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """At most `size` prompts: of `prompts`, or others that are not `taken` by this step. Ids stay distinct."""
        return list(prompts[:size])

    def draw(self, context: StepContext, prompt: Prompt, draws: list[Draw]) -> list[Draw]:
        """What is sampled for a prompt, given what the samplers before want."""
        return draws

    def recall(self, context: StepContext, prompt: Prompt) -> list[Given]:
        """Completions of the prompt that join those sampled."""
        return []

    async def select(self, context: StepContext, prompt: Prompt, rollouts: Sequence[Rollout], asks: Asks) -> list[int]:
        """Indices of the rollouts that the reward program is asked about; the others become NOT_SELECTED absences."""
        return list(range(len(rollouts)))

    def keep(self, context: StepContext, groups: Sequence[Group]) -> list[Group | None]:
        """For each scored group what is learned from: itself, a part of it (`Group.take`), or None. The ledger keeps all."""
        return list(groups)

    def further(self, context: StepContext, kept: int, round_: int) -> int:
        """How many more prompts to take after `round_` rounds (from 1) that left `kept` groups."""
        return 0

    def observe(self, context: StepContext, groups: Sequence[Group]) -> None:
        """All scored groups of the step, dropped ones too, each rollout as it was sampled."""

    def metrics(self) -> dict[str, float]:
        """Numbers of the step's end, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep for an exact resume: numbers, strings, lists, dicts and tensors."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores `state()`."""
        if state:
            raise ValueError(f"the sampler {self.name} has no state, got {', '.join(state)}")


def known_samplers() -> tuple[str, ...]:
    """Names that `load_sampler` accepts."""
    return known_modules(_PACKAGE)


def load_sampler(name: str, config: Mapping[str, object] | None = None) -> Sampler:
    """The sampler `name` with `config` validated by its own model; ValueError for an unknown name lists the known ones."""
    return cast(Sampler, _module(name).create(sampler_config(name).model_validate(dict(config or {}))))


def sampler_config(name: str) -> type[SamplerConfig]:
    """The configuration class of the sampler `name`; ValueError as `load_sampler`."""
    return cast(type[SamplerConfig], _module(name).Config)


def _module(name: str) -> ModuleType:
    return named_module(_PACKAGE, "sampler", name)
