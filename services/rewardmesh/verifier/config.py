"""Configuration of the verifier service."""

import os

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.serving import ServerConfig


class VerifierConfig(ServerConfig):
    """What a verifier server can be told."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_VERIFIER_")

    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="worker processes; default one a core")
    item_timeout_seconds: float = Field(2.0, gt=0, description="longest time one sample may take; its worker is killed then")
    memory_limit_bytes: int = Field(2**30, ge=2**28, description="address space of one worker; a check that needs more has no verdict")
    max_text_bytes: int = Field(2**20, ge=1, description="largest prompt, completion and references of one sample together, as UTF-8")
    max_queue_items: int = Field(50_000, ge=1, description="samples that may wait; further calls are refused until there is room")
    stream_window_items: int = Field(2048, ge=1, description="samples of one stream under way in the workers; reading stops there")
    max_stream_items: int = Field(1_000_000, ge=1, description="samples one stream may bring; it remembers their ids, some 100 bytes each")
    recycle_after_items: int = Field(50_000, ge=1, description="samples after which a worker is replaced by a fresh one")
    verifier_packages: tuple[str, ...] = Field((), description="importable packages with further verifiers, one a module")
