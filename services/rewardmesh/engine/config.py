"""What every service that holds weights can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rewardmesh.serving import ServerConfig


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
    threads: int = Field(0, ge=0, description="CPU threads of the engine; 0 leaves torch's choice")
    budget_tokens: int = Field(16384, ge=1, description="most tokens really computed in a batch, after sharing prompts")
    max_queue_tokens: int = Field(2_000_000, ge=1, description="more waiting than this is refused with RESOURCE_EXHAUSTED")
    batch_invariant: bool = Field(
        False, description="compute every group by itself, so that replays are equal to the bit; costs throughput"
    )
    overlength: Literal["refuse", "truncate_prompt"] = Field(
        "refuse", description="input longer than the model: refuse it, or cut the oldest prompt tokens and say so"
    )
