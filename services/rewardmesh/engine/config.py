"""What every service that holds weights can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from rewardmesh.serving import ServerConfig
from rewardmesh.serving.batching import BatcherOptions
from rewardmesh.serving.spending import Ledger, Prices

if TYPE_CHECKING:  # heavy (numpy, redis): imported by the servers, not by every command that reads a configuration
    from rewardmesh.serving.caching import CacheSettings


class ModelServerConfig(ServerConfig):
    """Which model, how it runs, and how much may wait for it."""

    model: str = Field(description="Hugging Face model directory or hub name")
    engine: Literal["transformers", "vllm", "vllm-server", "triton", "openai"] = Field(
        "transformers", description="who computes: this process (transformers with our packed forward, or vllm), or a server elsewhere"
    )
    engine_address: str = Field("", description="of the server that computes: http://host:port (vllm-server, openai) or host:port (triton)")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="settings of the engine itself; see docs/engines.md")
    name: str = Field("default", min_length=1, description="name clients call the model by")
    device: str = Field("cpu", description="where it runs: cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    native: bool = Field(
        True, description="float32 on a CPU: compute by the compiled forward, which is faster and holds the layers' weights a second time"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the engine; 0 leaves torch's choice")
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="batches computed side by side, each by its part of the threads; 0: one a thread on the CPU, at most 8; else 1",
    )
    budget_tokens: int = Field(
        0, ge=0, description="most tokens really computed in a batch, after sharing prompts; 0 finds it by measuring the model at start-up"
    )
    target_tokens: int = Field(
        0,
        ge=0,
        description="a batch is closed at so many tokens if that cuts no group; 0: the fastest size if it is measured, else the budget",
    )
    prefix_cache_mib: int = Field(
        256, ge=0, description="memory for keys and values of prefixes that batches have in common, MiB a version; 0 for none"
    )
    max_queue_tokens: int = Field(2_000_000, ge=1, description="more waiting than this is refused with RESOURCE_EXHAUSTED")
    max_wait_seconds: float = Field(
        30.0, gt=0, description="what has waited longer goes before better classes and other tenants, within a quarter of the throughput"
    )
    max_delay_seconds: float = Field(0.0, ge=0, description="how long a batch that is not full may wait for more; 0 for not at all")
    tenant_weights: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="share of the throughput of tenants (metadata x-tenant) when several wait; 1 for those not named"
    )
    batch_invariant: bool = Field(
        False,
        description="scores that are equal to the bit whatever is computed with them; costs nothing where the compiled forward computes"
        " rewards, elsewhere every group is computed by itself",
    )
    overlength: Literal["refuse", "truncate_prompt"] = Field(
        "refuse", description="input longer than the model: refuse it, or cut the oldest prompt tokens and say so"
    )

    def batching(self) -> BatcherOptions:
        """What a `Batcher` is told; workers and budget must be known by now (see `budget.with_budget`)."""
        from rewardmesh.engine.threads import worker_initialiser

        return BatcherOptions(
            budget_tokens=self.budget_tokens,
            target_tokens=self.target_tokens,
            max_queue_tokens=self.max_queue_tokens,
            batch_invariant=self.batch_invariant,
            max_wait_seconds=self.max_wait_seconds,
            max_delay_seconds=self.max_delay_seconds,
            tenant_weights=self.tenant_weights,
            workers=self.workers,
            initialise=worker_initialiser(self, self.workers),
        )


class ScoringServerConfig(ModelServerConfig):
    """A server with a model whose answers are worth keeping: the same input has the same answer as long as the version is the same."""

    cache_bytes: int = Field(
        64 * 2**20,
        ge=0,
        description="memory for answers; 0 keeps none, and identical items are still computed once while they are under way",
    )
    cache_url: str | None = Field(None, description="Redis in which replicas share answers: redis://HOST:PORT/DB, rediss:// or unix://")
    cache_ttl_seconds: float = Field(86400.0, ge=1, description="how long Redis keeps an answer")
    cache_timeout_seconds: float = Field(
        0.05, gt=0, description="most time a call spends asking Redis; one that is slower, or away, is bypassed for some seconds"
    )

    @field_validator("cache_url")
    @classmethod
    def _check_cache_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return value

    def caching(self) -> CacheSettings:
        """Where a `CachingBatcher` keeps answers."""
        from rewardmesh.serving.caching import CacheSettings

        return CacheSettings(self.cache_bytes, self.cache_url, self.cache_ttl_seconds, self.cache_timeout_seconds)


class MeteredServerConfig(ScoringServerConfig):
    """A scoring server whose callers are charged for what the model reads and writes."""

    prices: Prices | None = Field(
        None,
        description="US dollars for a million tokens: {read_per_million_tokens, written_per_million_tokens}; unset: nothing is charged",
    )
    budgets: dict[str, NonNegativeFloat] = Field(
        default_factory=dict,
        description="most US dollars in a window, by tenant (metadata x-tenant); 'other' is for all that are not named, together; each"
        " replica counts for itself",
    )
    budget_window_seconds: float = Field(86400.0, gt=0, description="length of the window of budgets; it slides")

    @model_validator(mode="after")
    def _check_budgets(self) -> Self:
        if self.budgets and self.prices is None:
            raise ValueError("budgets: nothing is charged without prices; set prices")
        return self

    def ledger(self, service: str) -> Ledger:
        """The books of a server."""
        return Ledger(self.prices, self.budgets, self.budget_window_seconds, service=service)
