"""What every service that holds weights can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rewardmesh.serving import ServerConfig


class ModelServerConfig(ServerConfig):
    """Which model, how it runs, and how much may wait for it."""

    model: str = Field(description="Hugging Face model directory or hub name")
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
