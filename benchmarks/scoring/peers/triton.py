"""Triton with the Python backend and its dynamic batcher, asked by tritonclient over gRPC.

What it needed to run without a GPU and do its best:
- The binary comes with the wheel of `nvidia-pytriton`. It links Python and its own bundled libraries: LD_LIBRARY_PATH names both.
- The backend's stub must fit the running Python: the wheel has one a version, which is copied into a backend folder of our own.
- Its stub takes its packages from the first `python3` on PATH: with another numpy (2 or newer) there, every output came back empty.
- `allow_ragged_batch`: without it only requests of equal length are batched.
- As many instances as the calibration chose, which share the threads; `max_queue_delay_microseconds` as long as the other servers wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.scoring.contender import IN_FLIGHT, Contender, ContenderError, Item, Setup, interpreter
from benchmarks.scoring.load import TIMEOUT_S, gather
from benchmarks.scoring.peers.http import APPS, BATCH, MICRO_VARIANTS, padded_environment
from benchmarks.scoring.process import ServerProcess, free_ports, http_ready

ENVIRONMENT = ".venv-triton"
START_S = 180.0
MODEL = "scorer"
CONFIG = f"""
name: "{MODEL}"
backend: "python"
max_batch_size: {BATCH}
input [ {{ name: "ids" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }} ]
output [ {{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: WORKERS }} ]
dynamic_batching {{ max_queue_delay_microseconds: 10000 }}
"""


class Triton(Contender):
    """tritonserver, Python backend."""

    name = "triton"
    title = "Triton, Python backend"
    variants = MICRO_VARIANTS
    calibrated_as = "fastapi"

    def __init__(self) -> None:
        self._process: ServerProcess | None = None
        self._address = ""

    def available(self) -> None:
        """See Contender."""
        interpreter(ENVIRONMENT)
        try:
            import tritonclient.grpc.aio  # noqa: F401
        except ImportError as error:
            raise ContenderError(f"tritonclient is not installed here ({error}): pip install -e '.[triton]'") from error

    def start(self, setup: Setup, variant: Mapping[str, str]) -> None:
        """See Contender."""
        python = interpreter(ENVIRONMENT)
        folders = _folders(python)
        repository, backends = _lay_out(setup.folder / "triton-server", folders, variant.get("workers", "1"))
        ports = free_ports(3)
        self._address = f"127.0.0.1:{ports[0]}"
        command = [folders["server"] + "/bin/tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}"]
        command += [f"--grpc-port={ports[0]}", f"--http-port={ports[1]}", f"--metrics-port={ports[2]}", "--log-verbose=0"]
        command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--metrics-address=127.0.0.1"]
        environment = padded_environment(setup, variant)
        environment["LD_LIBRARY_PATH"] = f"{folders['libdir']}:{folders['libraries']}"
        environment["PATH"] = f"{Path(python).parent}:{os.environ['PATH']}"
        self._process = ServerProcess(command, setup.folder / "triton.log", environment)
        self._process.wait_ready(http_ready(f"http://127.0.0.1:{ports[1]}/v2/models/{MODEL}/ready"), START_S)

    def score(self, items: Sequence[Item]) -> list[float]:
        """See Contender."""
        import numpy as np
        from tritonclient.grpc import InferInput
        from tritonclient.grpc.aio import InferenceServerClient
        from tritonclient.utils import InferenceServerException

        async def main() -> list[float]:
            gate = asyncio.Semaphore(IN_FLIGHT)
            async with InferenceServerClient(self._address) as client:

                async def send(item: Item) -> float:
                    tensor = InferInput("ids", [1, len(item.ids)], "INT64")
                    tensor.set_data_from_numpy(np.array([item.ids], dtype=np.int64))
                    async with gate:
                        reply = await client.infer(MODEL, [tensor], client_timeout=TIMEOUT_S)
                    return float(reply.as_numpy("score")[0, 0])

                return await gather(send(item) for item in items)

        try:
            scores: list[float] = uvloop.run(main())
        except InferenceServerException as error:
            raise ContenderError(f"Triton: {error}") from error
        return scores

    def stop(self) -> None:
        """See Contender."""
        if self._process:
            self._process.stop()
            self._process = None


def _folders(python: str) -> dict[str, str]:
    """Where the environment keeps Python's library, Triton and its libraries."""
    code = (
        "import json, pathlib, sys, sysconfig; site = sysconfig.get_path('platlib');"
        "print(json.dumps({'libdir': sysconfig.get_config_var('LIBDIR'), 'site': site, 'version': '%d.%d' % sys.version_info[:2],"
        "'server': site + '/pytriton/tritonserver', 'libraries': site + '/nvidia_pytriton.libs'}))"
    )
    found: dict[str, Any] = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    if not Path(found["server"]).is_dir():
        raise ContenderError(f"{ENVIRONMENT} has no Triton: run `make peers`")
    return found


def _lay_out(folder: Path, folders: Mapping[str, str], workers: str) -> tuple[Path, Path]:
    """A model repository and a backend folder whose stub fits the environment's Python."""
    repository, backends = folder / "models", folder / "backends"
    version = repository / MODEL / "1"
    version.mkdir(parents=True, exist_ok=True)
    (repository / MODEL / "config.pbtxt").write_text(CONFIG.replace("WORKERS", workers))
    shutil.copyfile(APPS / "triton_model.py", version / "model.py")
    shutil.copyfile(APPS / "padded.py", version / "padded.py")
    server = Path(folders["server"])
    shutil.copytree(server / "backends", backends, dirs_exist_ok=True)
    shutil.copy(server / "python_backend_stubs" / folders["version"] / "triton_python_backend_stub", backends / "python")
    return repository, backends
