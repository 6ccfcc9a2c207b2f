"""A recipe: everything that decides what a training run does, in one YAML file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rewardmesh.serving.config import ConfigError, describe_errors
from rewardmesh.trainer.algorithms import Algorithm, algorithm_config, known_algorithms, load_algorithm
from rewardmesh.trainer.prompts import PromptSource
from rewardmesh.trainer.recipe_file import read_recipe
from rewardmesh.trainer.samplers import Sampler, known_samplers, load_sampler, sampler_config


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class About(_Part):
    """What a recipe is for, as docs/algorithms.md shows it."""

    title: str = Field(description="name of the method")
    paper: str = Field(description="authors, year and arXiv id")
    changes: str = Field(description="what it changes against its neighbours")
    use: str = Field(description="when to use it")
    needs: str = Field(description="what it needs from the mesh")


class Services(_Part):
    """Where the mesh is: gRPC targets such as 127.0.0.1:50051 or dns:///rewardmesh-gateway:50051."""

    gateway: str = Field(description="runs the reward program")
    generation: str = Field(description="samples from the policy")
    logprob: str | None = Field(None, description="needed by algorithms with a reference policy")
    verifier: str | None = Field(None, description="needed for held-out evaluation")


class Sampling(_Part):
    """What the policy samples at each step."""

    prompts_per_step: int = Field(16, ge=1, description="prompts a step")
    completions: int = Field(4, ge=1, description="completions a prompt")
    temperature: float = Field(1.0, gt=0, description="also the temperature of every log-probability in the loss")
    max_tokens: int = Field(256, ge=1, description="most tokens a completion")


class Optimiser(_Part):
    """AdamW with a linear warm-up and gradient clipping."""

    learning_rate: float = Field(5e-7, gt=0, description="greatest rate of the policy")
    critic_learning_rate: float = Field(1e-5, gt=0, description="greatest rate of the critic")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the two moments")
    warmup_steps: int = Field(0, ge=0, description="steps over which the rate rises")
    schedule: Literal["constant", "linear"] = Field("constant", description="after the warm-up: stay, or fall to zero at the last step")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    micro_batch_tokens: int = Field(4096, ge=1, description="prompt and completion tokens of one forward and backward pass")


class Patience(_Part):
    """What happens while the mesh cannot answer."""

    wait_seconds: float = Field(600.0, ge=0, description="longest wait for one group; the run then stops and can be resumed")
    call_seconds: float = Field(60.0, gt=0, description="deadline of one scoring call")
    generate_seconds: float = Field(600.0, gt=0, description="deadline of one generation call")
    max_absent_fraction: float = Field(0.5, ge=0, le=1, description="the run stops when more of a step's samples have no reward")
    resample_attempts: int = Field(2, ge=0, description="new completions tried for a sample that the program wants resampled")


class Evaluation(_Part):
    """Held-out evaluation before and after training."""

    prompts: PromptSource = Field(description="problems that are not trained on")
    n: int = Field(500, ge=1, description="problems")
    verifier: str = Field("math", description="verifier that says what is right")
    every: int = Field(0, ge=0, description="also after every so many steps; 0 for never")


class Recipe(_Part):
    """A training run."""

    about: About | None = Field(None, description="what the recipe is for; says nothing to the run")
    run_dir: Path = Field(description="folder of the run: checkpoints, ledger, metrics, report")
    policy: str = Field(description="Hugging Face model directory or hub name of the policy to train")
    prompts: PromptSource = Field(description="what the policy is trained on")
    services: Services = Field(description="where the mesh is")
    program: str = Field("", description="reward program; empty for the gateway's only one")
    reference_policy: str = Field("reference", description="name of the reference policy at the log-prob service")
    guide_policy: str = Field(
        "", description="name of a preference-tuned policy there, whose log-ratios to the reference are the token rewards; empty for none"
    )
    algorithm: dict[str, Any] = Field(description="name, and the algorithm's own options")
    sampling: Sampling = Sampling()
    samplers: list[dict[str, Any]] = Field([], description="what decides which samples there are, in order: name, and its own options")
    optimiser: Optimiser = Optimiser()
    patience: Patience = Patience()
    evaluation: Evaluation | None = Field(None, description="held-out evaluation; unset for none")
    steps: int = Field(100, ge=1, description="steps in all, those before a resumption included")
    seed: int = Field(0, description="fixes the order of prompts, the sampling and every random choice")
    checkpoint_every: int = Field(10, ge=1, description="steps")
    keep_checkpoints: int = Field(2, ge=1, description="older ones are removed")
    device: str = Field("cpu", description="where the policy is trained: cpu, cuda, cuda:1, ...")
    threads: int = Field(0, ge=0, description="CPU threads of the training step; 0 leaves torch's choice")
    metrics_host: str = Field("127.0.0.1", description="address of the trainer's Prometheus port")
    metrics_port: int | None = Field(None, description="Prometheus port of the trainer; 0 picks a free one, unset serves none")
    otlp_endpoint: str | None = Field(None, description="OTLP gRPC collector for traces")

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> Recipe:
        algorithm = self.make_algorithm()
        if self.sampling.completions < algorithm.samples_per_prompt_min:
            raise ValueError(f"sampling.completions: {algorithm.name} needs at least {algorithm.samples_per_prompt_min}")
        if algorithm.needs_reference and not self.services.logprob:
            raise ValueError(f"services.logprob: {algorithm.name} needs reference log-probabilities")
        if self.guide_policy and not self.services.logprob:
            raise ValueError("services.logprob: guide_policy needs log-probabilities")
        samplers = self.make_samplers()
        if algorithm.needs_sampler and algorithm.needs_sampler not in {sampler.name for sampler in samplers}:
            raise ValueError(f"samplers: {algorithm.name} has nothing to learn from without {{name: {algorithm.needs_sampler}}}")
        for sampler in samplers:
            if self.sampling.completions < sampler.completions_min:
                raise ValueError(f"sampling.completions: the sampler {sampler.name} needs at least {sampler.completions_min}")
            if sampler.needs_logprob and not self.services.logprob:
                raise ValueError(f"services.logprob: the sampler {sampler.name} needs it")
        if self.evaluation and not self.services.verifier:
            raise ValueError("services.verifier: the held-out evaluation needs it")
        return self

    @classmethod
    def load(cls, path: Path, changes: Sequence[str] = ()) -> Recipe:
        """Read a recipe file with its bases; `changes` are "path.to.field=value".

        Raises:
            ConfigError: with file and field of every mistake.
        """
        return cls.parse(read_recipe(path, changes), str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """Check a recipe given as a mapping; as `load`."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ConfigError(describe_errors(error, source, cls)) from error

    def make_algorithm(self) -> Algorithm:
        """The algorithm with its options checked; ValueError names the mistake."""
        options = dict(self.algorithm)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"algorithm.name: is missing; one of {', '.join(known_algorithms())}")
        try:
            return load_algorithm(name, options)
        except ValidationError as error:
            raise ValueError(describe_errors(error, "algorithm", algorithm_config(name))) from error
        except ValueError as error:
            raise ValueError(f"algorithm.name: {error}") from error

    def make_samplers(self) -> list[Sampler]:
        """The samplers with their options checked, in order; ValueError names the mistake."""
        made: list[Sampler] = []
        for place, given in enumerate(self.samplers):
            options = dict(given)
            name = options.pop("name", None)
            if not isinstance(name, str):
                raise ValueError(f"samplers[{place}].name: is missing; one of {', '.join(known_samplers())}")
            if name in {sampler.name for sampler in made}:
                raise ValueError(f"samplers[{place}].name: {name} is there already")
            try:
                made.append(load_sampler(name, options))
            except ValidationError as error:
                raise ValueError(describe_errors(error, f"samplers[{place}]", sampler_config(name))) from error
        return made

    def fingerprint(self) -> str:
        """Hash (hex) of what must not change between a checkpoint and its resumption."""
        free = {
            "about",
            "run_dir",
            "services",
            "steps",
            "patience",
            "metrics_host",
            "metrics_port",
            "otlp_endpoint",
            "checkpoint_every",
            "keep_checkpoints",
        }
        fixed = self.model_dump(mode="json", exclude=free)
        fixed["resample_attempts"] = self.patience.resample_attempts
        fixed["falls_to_zero_at"] = self.steps if self.optimiser.schedule == "linear" else None
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
