"""Preference directions: each prompt of a step asks for a taste, a unit vector over objectives, drawn anew each time.

Wang et al. 2024, "Arithmetic Control of LLMs for Diverse User Preferences" (arXiv 2402.18571). The direction is said in the prompt, which
the reward program then sees too, and kept in its tags, where the algorithm `dpa` reads it. Departures: drawn uniformly on the sphere's
part that `both_signs` leaves, not on an arc of two objectives; the text says weights to two decimals, the tags the whole number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from rewardmesh.trainer.credit.directions import check_template, conditioned_messages, direction_tags, sample_direction
from rewardmesh.trainer.samplers._base import Sampler, SamplerConfig, StepContext

if TYPE_CHECKING:
    from rewardmesh.trainer.prompts import Prompt


class DirectionConfig(SamplerConfig):
    """Over which objectives, and how a prompt says it."""

    objectives: tuple[str, ...] = Field(("correct", "working"), min_length=1, description="signals of the reward program")
    both_signs: tuple[str, ...] = Field((), description="those of the objectives that may also be unwanted")
    template: str = Field("[{direction}] {prompt}", description="the prompt with its direction; holds {direction} and {prompt}")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives must be distinct")
        if unknown := set(self.both_signs) - set(self.objectives):
            raise ValueError(f"both_signs: {', '.join(sorted(unknown))} is no objective")
        check_template(self.template)
        return self


class Direction(Sampler):
    """Conditions every prompt it is handed."""

    name = "direction"

    def __init__(self, config: DirectionConfig) -> None:
        self.config = config

    def choose(self, context: StepContext, prompts: Sequence[Prompt], size: int, taken: Mapping[str, Prompt]) -> list[Prompt]:
        """The first `size` prompts, each with a direction of its own."""
        return [self._directed(context, prompt) for prompt in prompts[:size]]

    def _directed(self, context: StepContext, prompt: Prompt) -> Prompt:
        rng = context.rng(self.name, prompt.id)
        direction = sample_direction(rng, self.config.objectives, self.config.both_signs)
        messages = conditioned_messages(prompt.messages, direction, self.config.template)
        return replace(prompt, messages=messages, tags={**prompt.tags, **direction_tags(direction)})


Config = DirectionConfig
create = Direction
