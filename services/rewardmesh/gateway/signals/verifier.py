"""`{verifier: math}`: the score of a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.struct_pb2 import Struct

from rewardmesh.gateway.asking import Asker, Metadata
from rewardmesh.gateway.backends import Backend
from rewardmesh.gateway.program import VerifierSignal
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import verifier_service_pb2 as api
from rewardmesh.v1.verifier_service_pb2_grpc import VerifierServiceStub


class VerifierAsker(Asker[VerifierSignal, pb.Sample]):
    """Asks a VerifierService."""

    answer_field = "verdict"

    def __init__(self, name: str, signal: VerifierSignal, backend: Backend) -> None:
        super().__init__(name, signal, backend)
        self._stub = VerifierServiceStub(backend.channel)

    def questions(self, samples: Sequence[pb.Sample]) -> list[pb.Sample]:
        return list(samples)

    async def call(
        self, questions: Sequence[pb.Sample], pin: pb.ModelRef | None, timeout_s: float, metadata: Metadata
    ) -> Sequence[api.VerdictOutcome]:
        request = api.VerifyRequest(verifier=self.signal.verifier, samples=questions)
        if self.signal.options:
            options = Struct()
            options.update(self.signal.options)
            request.options.CopyFrom(options)
        return (await self._stub.Verify(request, timeout=timeout_s, metadata=metadata)).outcomes

    def outcome_id(self, outcome: api.VerdictOutcome) -> str:
        return outcome.sample_id

    def value_of(self, outcome: api.VerdictOutcome) -> float:
        return outcome.verdict.score
