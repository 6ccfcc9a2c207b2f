"""What all calls of the trainer have in common: they are counted, and repeated for as long as the recipe's patience lasts.

Every call can be repeated: seeds fix what is sampled, and scores depend on the sample alone. So a service that is killed costs time, never
a sample: retryable absences are asked for again, with growing pauses.
"""

from __future__ import annotations

from collections import Counter

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential

from rewardmesh.client import AsyncClient, CallFailed
from rewardmesh.serving.logs import get_logger
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.v1.common_pb2 import Provenance

log = get_logger(__name__)


class MeshUnavailable(Exception):
    """The mesh did not answer within the recipe's patience, or the program asks to abort; the run can be resumed."""


class Away(Exception):
    """A retryable absence: worth asking again."""


class Calls:
    """Connections to the services of a recipe; make it inside the event loop that uses it.

    Attributes:
        requests: calls made, by service.
        absences: absences met, by (service, reason); those that a later attempt resolved are counted too.
        versions: model, version and fingerprint that last answered, by signal or service.
    """

    def __init__(self, recipe: Recipe) -> None:
        services = recipe.services
        self._recipe = recipe
        self._patience = recipe.patience
        calls = self._patience.call_seconds
        self._gateway = AsyncClient(services.gateway, priority="TRAINING", timeout_s=calls)
        self._generation = AsyncClient(services.generation, priority="TRAINING", timeout_s=self._patience.generate_seconds)
        self._logprob = AsyncClient(services.logprob, priority="TRAINING", timeout_s=calls) if services.logprob else None
        self._verifier = AsyncClient(services.verifier, priority="TRAINING", timeout_s=calls) if services.verifier else None
        self.requests: Counter[str] = Counter()
        self.absences: Counter[tuple[str, str]] = Counter()
        self.versions: dict[str, dict[str, object]] = {}

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._gateway, self._generation, self._logprob, self._verifier):
            if client:
                await client.close()

    def _note(self, name: str, provenance: Provenance | None) -> None:
        if provenance and provenance.HasField("model"):
            ref = provenance.model
            self.versions[name] = {"model": ref.name, "version": ref.version, "fingerprint": ref.fingerprint}

    def _retrying(self, service: str) -> AsyncRetrying:
        def waited(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning("waiting for the mesh", service=service, attempt=state.attempt_number, reason=str(error))

        def gave_up(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            raise MeshUnavailable(f"{service} did not answer for {self._patience.wait_seconds:.0f} s (patience.wait_seconds): {error}")

        return AsyncRetrying(
            retry=retry_if_exception_type(Away),
            wait=wait_exponential(multiplier=0.1, max=5.0),
            stop=stop_after_delay(self._patience.wait_seconds),
            before_sleep=waited,
            retry_error_callback=gave_up,
            reraise=False,
        )


def translated(failure: CallFailed) -> Exception:
    """Away for what may pass, else the failure itself as something a person can act on."""
    if failure.code.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}:
        return Away(str(failure))
    return MeshUnavailable(str(failure))
