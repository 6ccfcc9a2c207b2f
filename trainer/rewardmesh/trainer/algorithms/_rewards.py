"""What every policy-gradient algorithm is told about rewards, KL and importance, and the state that goes with it.

The state is floats: the adaptive KL coefficient and the running statistics of the raw scores. It moves in `finish_step` alone, so that
credit is a function of the batch and the state before it, and a resumed run walks the same path.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rewardmesh.trainer.algorithms._base import Algorithm, AlgorithmConfig
from rewardmesh.trainer.credit import Credit, ImportanceCorrection, RunningStatistics, ScoreRule
from rewardmesh.trainer.losses import AdaptiveKL

KLCoef = Annotated[float, Field(ge=0, description="weight of the KL to the reference; 0 for none")]
Clip = Annotated[float, Field(gt=0, description="the ratio pi / pi_old is clipped from below at 1 - clip")]
ClipHigh = Annotated[float | None, Field(gt=0, description="the ratio is clipped from above at 1 + clip_high; unset for clip")]
DualClip = Annotated[float | None, Field(gt=1, description="bounds the loss of a token with A < 0 at -dual_clip A")]
RewardClip = Annotated[float | None, Field(gt=0, description="scores are clipped to +- this, before penalties")]
NormaliseRewards = Annotated[bool, Field(description="scores less their running mean, over their running standard deviation")]
MissingEosPenalty = Annotated[float, Field(ge=0, description="subtracted from the score of a truncated completion")]
MaxTokens = Annotated[int, Field(ge=1, description="sampling.max_tokens, as the overlong penalty counts")]
OverlongBuffer = Annotated[int, Field(ge=0, description="tokens before max_tokens over which the overlong penalty rises; 0 for none")]
OverlongPenalty = Annotated[float, Field(gt=0, description="subtracted from the score of a completion of max_tokens")]
TargetKL = Annotated[float | None, Field(gt=0, description="nats per rollout; when given, kl_coef adapts to it")]
KLHorizon = Annotated[float, Field(gt=0, description="rollouts over which kl_coef adapts")]
Importance = Annotated[
    Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
    Field(description="correction of the trainer's old log-probs against the sampler's: weights clipped, or 0 where out of bounds"),
]
ImportanceLow = Annotated[float, Field(ge=0, description="least importance weight")]
ImportanceHigh = Annotated[float, Field(gt=0, description="greatest importance weight")]


class RewardConfig(AlgorithmConfig):
    """Options of every policy-gradient algorithm."""

    kl_coef: KLCoef = 0.0
    target_kl: TargetKL = None
    kl_horizon: KLHorizon = 10_000
    reward_clip: RewardClip = None
    normalise_rewards: NormaliseRewards = False
    missing_eos_penalty: MissingEosPenalty = 0.0
    max_tokens: MaxTokens = 256
    overlong_buffer: OverlongBuffer = 0
    overlong_penalty: OverlongPenalty = 1.0
    importance: Importance = "none"
    importance_low: ImportanceLow = 0.0
    importance_high: ImportanceHigh = 2.0

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.target_kl is not None and self.kl_coef == 0:
            raise ValueError("target_kl needs kl_coef > 0: it is adapted by factors")
        if self.overlong_buffer > self.max_tokens:
            raise ValueError("overlong_buffer must not be longer than max_tokens")
        if self.importance_low >= self.importance_high:
            raise ValueError("importance_low must be below importance_high")
        return self

    def correction(self) -> ImportanceCorrection | None:
        """The importance correction asked for."""
        if self.importance == "none":
            return None
        level: Literal["token", "sequence"] = "token" if self.importance.startswith("token") else "sequence"
        bound: Literal["truncate", "mask"] = "truncate" if self.importance.endswith("truncate") else "mask"
        return ImportanceCorrection(level, bound, self.importance_low, self.importance_high)


class RewardState:
    """KL coefficient and score statistics of a run."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._controller = None if config.target_kl is None else AdaptiveKL(config.kl_coef, config.target_kl, config.kl_horizon)
        self._statistics = RunningStatistics() if config.normalise_rewards else None

    @property
    def kl_coef(self) -> float:
        """The coefficient in force."""
        return self._config.kl_coef if self._controller is None else self._controller.coefficient

    @property
    def rule(self) -> ScoreRule:
        """How a raw score becomes the one that is learned from."""
        config = self._config
        return ScoreRule(
            statistics=self._statistics,
            clip=config.reward_clip,
            missing_eos_penalty=config.missing_eos_penalty,
            max_tokens=config.max_tokens,
            overlong_buffer=config.overlong_buffer,
            overlong_penalty=config.overlong_penalty,
        )

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Moves both by the metrics of the batch's credit."""
        metrics = credit.metrics
        if self._controller is not None and not credit.is_empty:
            self._controller.update(metrics["kl"], metrics["rollouts"])
        if self._statistics is not None and not credit.is_empty:
            self._statistics = self._statistics.merged(metrics["rollouts"], metrics["score"], metrics["score_std"])
        return {"kl_coef": self.kl_coef}

    def state(self) -> dict[str, float]:
        """What adapts, when something does."""
        kept = {} if self._controller is None else {"kl_coef": self._controller.coefficient}
        return kept if self._statistics is None else {**kept, **self._statistics.state()}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`; ValueError for that of another configuration."""
        if set(state) != set(self.state()):
            raise ValueError(f"state has {sorted(state)}, this configuration keeps {sorted(self.state())}")
        if self._controller is not None:
            self._controller.coefficient = state["kl_coef"]
        if self._statistics is not None:
            self._statistics = RunningStatistics.of_state(state)


class RewardAlgorithm(Algorithm):
    """An algorithm with a `RewardState`."""

    config: RewardConfig

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.needs_reference = config.kl_coef > 0
        self.rewards = RewardState(config)

    @property
    def kl_coef(self) -> float:
        """The coefficient in force."""
        return self.rewards.kl_coef

    def finish_step(self, credit: Credit) -> dict[str, float]:
        """Moves the KL coefficient and the score statistics, where they move."""
        return self.rewards.finish_step(credit)

    def state(self) -> dict[str, float]:
        """What adapts."""
        return self.rewards.state()

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restores `state()`."""
        self.rewards.load_state(state)
