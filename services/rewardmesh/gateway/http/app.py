"""The gateway's endpoints. They call the gRPC service's own methods in this process: the same checks, evaluation and metrics of items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from starlette.applications import Starlette

from rewardmesh.gateway.config import GatewayConfig
from rewardmesh.gateway.http import reading, schema, writing
from rewardmesh.gateway.service import MeshServicer
from rewardmesh.serving.errors import CallError, overloaded
from rewardmesh.serving.http import Endpoint, HttpError, Received, Reply, build_app, documented
from rewardmesh.v1 import mesh_service_pb2 as mesh

SERVICE = "rewardmesh.http.Gateway"
_RETRY_AFTER_S = 1.0


class HttpGateway:
    """Answers HTTP requests with a `MeshServicer`.

    serving: says whether the server takes calls or drains, for load balancers that ask for its health.
    """

    def __init__(self, config: GatewayConfig, servicer: MeshServicer, serving: Callable[[], Awaitable[bool]]) -> None:
        self._config = config
        self._servicer = servicer
        self._serving = serving
        self._samples = 0

    def app(self) -> Starlette:
        """The ASGI application."""
        limit_bytes = self._config.max_message_bytes
        return build_app(documented(self._endpoints(), "rewardmesh gateway", _ABOUT, _version()), service=SERVICE, limit_bytes=limit_bytes)

    def _endpoints(self) -> Sequence[Endpoint[Any]]:
        def timeout_s(body: schema.EvaluateBody) -> float | None:
            return body.timeout_seconds

        return (
            Endpoint(
                "POST",
                "/v1/evaluate",
                "Evaluate",
                "Evaluate samples with a reward program.",
                self._evaluate,
                schema.EvaluateBody,
                schema.EvaluateReply,
                timeout_s,
                _EXAMPLE,
            ),
            Endpoint(
                "POST",
                "/v1/select-best",
                "SelectBest",
                "Best of n: evaluate the answers to one prompt and name the best.",
                self._select_best,
                schema.EvaluateBody,
                schema.SelectBestReply,
                timeout_s,
                _EXAMPLE,
            ),
            Endpoint("GET", "/v1/programs", "ListPrograms", "Names of the programs.", self._programs, reply=schema.ProgramsReply),
            Endpoint("GET", "/v1/programs/{name}", "DescribeProgram", "What a program does.", self._program, reply=schema.ProgramReply),
            Endpoint("GET", "/healthz", "Check", "Whether the gateway takes requests.", self._health, reply=schema.HealthReply),
        )

    async def _evaluate(self, received: Received[schema.EvaluateBody]) -> Reply:
        with self._admitted(received.body), _fields_as_sent():
            request = mesh.EvaluateRequest(options=reading.options(received.body), samples=reading.samples(received.body))
            return Reply(writing.evaluate_reply(await self._servicer.Evaluate(request, received.caller.as_context())))

    async def _select_best(self, received: Received[schema.EvaluateBody]) -> Reply:
        with self._admitted(received.body), _fields_as_sent():
            request = mesh.SelectBestRequest(options=reading.options(received.body), samples=reading.samples(received.body))
            return Reply(writing.select_best_reply(await self._servicer.SelectBest(request, received.caller.as_context())))

    async def _programs(self, received: Received[Any]) -> Reply:
        response = await self._servicer.ListPrograms(mesh.ListProgramsRequest(), received.caller.as_context())
        return Reply({"programs": list(response.programs)})

    async def _program(self, received: Received[Any]) -> Reply:
        request = mesh.DescribeProgramRequest(program=received.path["name"])
        return Reply(writing.program_reply(await self._servicer.DescribeProgram(request, received.caller.as_context())))

    async def _health(self, received: Received[Any]) -> Reply:
        return Reply({"status": "SERVING"}) if await self._serving() else Reply({"status": "NOT_SERVING"}, 503)

    @contextmanager
    def _admitted(self, body: schema.EvaluateBody) -> Iterator[None]:
        """Hold room for a body's samples; refuse what finds none."""
        count, most = len(body.samples), self._config.http_max_samples
        if count > most:
            raise HttpError(413, f"samples: {count} are too many for one call; send at most {most}")
        if self._samples + count > most:
            raise overloaded(f"{self._samples} samples are under way, of at most {most}", _RETRY_AFTER_S)
        self._samples += count
        try:
            yield
        finally:
            self._samples -= count


@contextmanager
def _fields_as_sent() -> Iterator[None]:
    """Name wrong fields as the body has them: there is no `options` around them here."""
    try:
        yield
    except CallError as error:
        if not any(field.startswith("options.") for field, _ in error.violations):
            raise
        violations = [(field.removeprefix("options."), problem) for field, problem in error.violations]
        message = "; ".join(f"{field}: {problem}" for field, problem in violations)
        raise CallError(error.code, message, violations=violations, retry_after_s=error.retry_after_s) from error


def _version() -> str:
    return metadata.version("rewardmesh")


_EXAMPLE = {"samples": [{"prompt": "What is 2 + 2?", "completion": "4", "references": ["4"]}]}

_ABOUT = (
    "Runs reward programs over samples. Every sample is answered with a value or with an absence that says why there is none; "
    "an absent value is null, never 0. Problems of the whole request have a status of 400 or above and an error that names the field."
)
