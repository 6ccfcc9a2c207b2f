"""Configuration of the verifier service."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rewardmesh.serving import ServerConfig
from rewardmesh.verifier.sandbox.limits import Limits
from rewardmesh.verifier.sandbox.sandboxes import SandboxConfig, Wanted


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
    sandbox: Wanted = Field(
        "auto",
        description="what isolates untrusted code: bubblewrap or gvisor; auto takes the first that works, and without one such checks have "
        "no verdict; unsandboxed runs it without any protection",
    )
    sandbox_slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="samples whose code runs at a time")
    sandbox_stock: int | None = Field(None, ge=0, description="sandboxes kept started; default two a slot")
    sandbox_item_seconds: float = Field(60.0, gt=0, description="longest time one sample may take, all its tests together")
    sandbox_seconds: float = Field(30.0, gt=0, description="most processor time that a call may allow one test")
    sandbox_memory_bytes: int = Field(2**30, ge=2**26, description="most memory that a call may allow the processes of one test")
    sandbox_processes: int = Field(128, ge=1, description="most processes and threads that a call may allow one test")
    sandbox_output_bytes: int = Field(2**22, ge=1, description="most output that a call may allow one test")
    sandbox_disk_bytes: int = Field(2**26, ge=2**20, description="size of a sandbox's work folder, which is in memory")
    sandbox_cache_bytes: int = Field(2**28, ge=0, description="memory for compiled programs and results of code that was run before")
    program_dirs: tuple[Path, ...] = Field((), description="folders with checks in Python, each NAME.py with NAME.examples.jsonl beside it")
    program_min_agreement: float = Field(0.9, ge=0, le=1, description="share of its examples a check must agree with to be admitted")
    program_min_examples: int = Field(8, ge=1, description="fewest examples with which a check can be admitted")
    sandbox_python: Path | None = Field(None, description="Python of the code; default the server's, or /usr/bin's")
    verifier_packages: tuple[str, ...] = Field((), description="importable packages with further verifiers, one a module")

    def sandboxes(self) -> SandboxConfig:
        """What its sandboxes are allowed."""
        most = Limits(
            cpu_s=self.sandbox_seconds,
            memory_bytes=self.sandbox_memory_bytes,
            processes=self.sandbox_processes,
            output_bytes=self.sandbox_output_bytes,
        )
        return SandboxConfig(
            wanted=self.sandbox,
            stock=2 * self.sandbox_slots if self.sandbox_stock is None else self.sandbox_stock,
            disk_bytes=self.sandbox_disk_bytes,
            # Some time is left for what is not the code's doing.
            budget_s=0.8 * self.sandbox_item_seconds,
            cache_bytes=self.sandbox_cache_bytes,
            most=most,
            python=self.sandbox_python,
        )
