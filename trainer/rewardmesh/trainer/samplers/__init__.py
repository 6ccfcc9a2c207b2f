"""Samplers: what decides which samples a step has, one module each, found by name; adding one is a file here and its test.

The stages, in which several samplers follow each other in the recipe's order:

    choose     which prompts                                   curriculum, preselect, replay, direction
    draw       how many completions of a prompt, and whose     opponent, mixture, pilaf, greedy, reset, spin, regenerate
    recall     rollouts that are there already                 replay, regenerate, spin
    select     which rollouts are worth the reward program     uncertain
    keep       which scored rollouts are learned from          large_margin, ranks, rejection, dynamic, spin
    further    how many more prompts the step needs            dynamic
    observe    what is remembered for later steps              curriculum, replay, regenerate

No sampler knows the algorithm, no algorithm knows a sampler: what comes out are groups.
"""

from rewardmesh.trainer.samplers._base import (
    Asks,
    CheckpointRule,
    Draw,
    Given,
    Sampler,
    SamplerConfig,
    StepContext,
    known_samplers,
    load_sampler,
    sampler_config,
)
from rewardmesh.trainer.samplers._chain import SamplerChain

__all__ = [
    "Asks",
    "CheckpointRule",
    "Draw",
    "Given",
    "Sampler",
    "SamplerChain",
    "SamplerConfig",
    "StepContext",
    "known_samplers",
    "load_sampler",
    "sampler_config",
]
