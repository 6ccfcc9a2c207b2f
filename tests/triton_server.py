"""A real Triton inference server with its Python backend, on the CPU, that serves a reward model directory.

The wheel of nvidia-pytriton carries the server. It wants numpy 1, so it lives in a virtual environment of its own: `.venv-triton` in the
repository's root, which `make engines-env` fills.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

VENV = Path(__file__).parents[1] / ".venv-triton"
START_SECONDS = 120.0

_CONFIG = """
name: "reward"
backend: "python"
max_batch_size: 8
input [
  { name: "ids", data_type: TYPE_INT64, dims: [ -1 ], optional: true },
  { name: "mask", data_type: TYPE_INT32, dims: [ -1 ], optional: true },
  { name: "lengths", data_type: TYPE_INT32, dims: [ 1 ], optional: true },
  { name: "text", data_type: TYPE_STRING, dims: [ 1 ], optional: true }
]
output [
  { name: "logits", data_type: TYPE_FP32, dims: [ 1 ] },
  { name: "probability", data_type: TYPE_FP32, dims: [ 1 ] },
  { name: "both", data_type: TYPE_FP32, dims: [ 2 ] },
  { name: "label", data_type: TYPE_INT32, dims: [ 1 ] }
]
instance_group [ { count: 1, kind: KIND_CPU } ]
parameters { key: "directory", value: { string_value: "%s" } }
"""

# What somebody who serves a reward model on Triton writes: padded batches through transformers.
_MODEL = """
import json

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

POISON = 7


class TritonPythonModel:
    def initialize(self, args):
        directory = json.loads(args["model_config"])["parameters"]["directory"]["string_value"]
        torch.set_num_threads(1)
        self.model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)

    def execute(self, requests):
        responses = []
        for request in requests:
            try:
                responses.append(self.answer(request))
            except Exception as error:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
        return responses

    def answer(self, request):
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "text" in inputs:
            rows = [self.tokenizer(text.decode(), add_special_tokens=False)["input_ids"] for [text] in inputs["text"]]
        else:
            lengths = inputs["lengths"][:, 0] if "lengths" in inputs else inputs["mask"].sum(1)
            rows = [ids[:n].tolist() for ids, n in zip(inputs["ids"], lengths)]
        if any(POISON in row for row in rows):
            raise ValueError("poisoned")
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            states = self.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
            last = states[torch.arange(len(rows)), mask.sum(1) - 1]
            logits = self.model.score(last).float()
        outputs = {
            "logits": logits,
            "probability": logits.sigmoid(),
            "both": torch.cat([-logits, logits], 1),
            "label": (logits > 0).int(),
        }
        wanted = request.requested_output_names()
        tensors = [pb_utils.Tensor(name, value.numpy()) for name, value in outputs.items() if name in wanted]
        return pb_utils.InferenceResponse(output_tensors=tensors)
"""


def require() -> None:
    """Skip the test without the server, or fail it where REWARDMESH_REQUIRE_ENGINES says that engines must be there."""
    if not (VENV / "bin" / "python").exists():
        missing = f"{VENV} is not there: run `make engines-env`"
        if os.environ.get("REWARDMESH_REQUIRE_ENGINES"):
            pytest.fail(missing)
        pytest.skip(missing)


class TritonServer:
    """A running server.

    Attributes:
        address: host:port of its gRPC endpoint.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self.address = address

    def kill(self) -> None:
        """End it and the model's process at once; safe to call twice."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def triton(directory: Path, work: Path) -> Iterator[TritonServer]:
    """A server for a model directory; files go into `work`."""
    about = "import sys, sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'), '%d.%d' % sys.version_info[:2])"
    described = subprocess.run([str(VENV / "bin" / "python"), "-c", about], check=True, capture_output=True, text=True).stdout
    packages, library, python = described.split()
    server_files = Path(packages) / "pytriton" / "tritonserver"
    repository, backends = work / "models", work / "backends"
    (repository / "reward" / "1").mkdir(parents=True)
    (repository / "reward" / "config.pbtxt").write_text(_CONFIG % directory)
    (repository / "reward" / "1" / "model.py").write_text(_MODEL)
    shutil.copytree(server_files / "backends" / "python", backends / "python")
    stub = server_files / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python" / stub.name)
    ports = _free_ports(3)
    environment = {
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work),
        "LD_LIBRARY_PATH": f"{library}:{packages}/nvidia_pytriton.libs",
        "PYTHONPATH": packages,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(server_files / "bin" / "tritonserver"), f"--model-repository={repository}", f"--backend-directory={backends}"]
    command += [f"--{kind}-port={port}" for kind, port in zip(("grpc", "http", "metrics"), ports, strict=True)]
    command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--metrics-address=127.0.0.1", "--exit-timeout-secs=2"]
    # The model's process shares memory with the server under this name.
    command += [f"--backend-config=python,shm-region-prefix-name=rewardmesh_{ports[0]}"]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=work, start_new_session=True)
    server = TritonServer(process, f"127.0.0.1:{ports[0]}")
    try:
        _await(server, work / "log")
        yield server
    finally:
        server.kill()
        for region in Path("/dev/shm").glob(f"rewardmesh_{ports[0]}*"):
            region.unlink(missing_ok=True)


def _await(server: TritonServer, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with InferenceServerClient(server.address) as client:
        while time.monotonic() < deadline:
            if server.process.poll() is not None:
                break
            try:
                if client.is_model_ready("reward"):
                    return
            except InferenceServerException:
                pass  # it does not listen yet
            time.sleep(0.2)
    raise RuntimeError(f"tritonserver did not start:\n{log.read_text()[-4000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
