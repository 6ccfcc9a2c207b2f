"""vLLM's pooling server on the CPU, with prefix caching and without: token ids over HTTP to `/classify`, raw outputs back.

What it needed to do its best:
- `VLLM_CPU_OMP_THREADS_BIND` names all cores: left alone, vLLM keeps one core for its scheduler, which of two cores is half the machine.
- `use_activation: false`: a head with one label otherwise passes through a sigmoid; scores are compared raw.
- `libiomp5` (PyPI `intel-openmp`) and `libtcmalloc_minimal` (Debian `libtcmalloc-minimal4`) preloaded, as its start-up log advises;
  whether they help is tried in the calibration, without prefix caching, and used for both settings.
- KV cache of 1 GiB, which holds several times what is in flight. It is restarted every round, so its prefix cache starts empty.
- The package is `vllm-cpu`, without the metadata that the `vllm` command wants: the server is started by its module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

from benchmarks.scoring.contender import Contender, ContenderError, Item, Setup, interpreter, thread_environment
from benchmarks.scoring.load import post_batches
from benchmarks.scoring.process import ServerProcess, free_port, http_ready

ENVIRONMENT = ".venv-vllm"
START_S = 300.0


class VLLM(Contender):
    """`vllm serve --runner pooling --convert classify`."""

    variants = (
        {"preload": "", "request": "64"},
        {"preload": "libiomp5.so", "request": "64"},
        {"preload": "libiomp5.so libtcmalloc_minimal.so.4", "request": "64"},
        {"preload": "", "request": "64", "cores": "vLLM's own choice"},
    )
    calibrated_as = "vllm-plain"

    def __init__(self, *, prefix_caching: bool) -> None:
        self._prefix_caching = prefix_caching
        self.name = "vllm-prefix" if prefix_caching else "vllm-plain"
        self.title = f"vLLM, prefix caching {'on' if prefix_caching else 'off'}"
        self._process: ServerProcess | None = None
        self._address = ""
        self._model = ""
        self._request = 64

    def available(self) -> None:
        """See Contender."""
        interpreter(ENVIRONMENT)

    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """See Contender."""
        python = interpreter(ENVIRONMENT)
        port = free_port()
        self._address, self._model, self._request = f"http://127.0.0.1:{port}", str(setup.model), int(variant.get("request", "64"))
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: setup.threads]))
        environment = {
            **thread_environment(setup.threads, variant),
            "VLLM_CPU_OMP_THREADS_BIND": "auto" if variant.get("cores") else cores,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        if names := variant.get("preload", "").split():
            environment["LD_PRELOAD"] = " ".join(_library(python, name) for name in names)
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", self._model, "--runner", "pooling"]
        command += ["--convert", "classify", "--dtype", setup.dtype, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--max-model-len", "2048", "--disable-log-stats", "--disable-uvicorn-access-log"]
        command += ["--enable-prefix-caching" if self._prefix_caching else "--no-enable-prefix-caching"]
        self._process = ServerProcess(command, setup.folder / f"{self.name}.log", environment)
        self._process.wait_ready(http_ready(f"{self._address}/health"), START_S)

    def score(self, items: Sequence[Item]) -> list[float]:
        """See Contender."""

        def body(ids: list[list[int]]) -> dict[str, Any]:
            return {"model": self._model, "input": ids, "use_activation": False}

        def read(reply: Any) -> list[float]:
            return [float(entry["probs"][0]) for entry in sorted(reply["data"], key=lambda entry: int(entry["index"]))]

        return post_batches(f"{self._address}/classify", items, self._request, body, read)

    def stop(self) -> None:
        """See Contender."""
        if self._process:
            self._process.stop()
            self._process = None


def _library(python: str, name: str) -> str:
    """Path of a library: out of the environment, or the name itself when the system's linker knows it."""
    path = Path(python).parents[1] / "lib" / name
    if path.exists():
        return str(path)
    if find_library(name.removeprefix("lib").partition(".so")[0]):
        return name
    raise ContenderError(f"{name} is neither in {ENVIRONMENT} nor on the system")
