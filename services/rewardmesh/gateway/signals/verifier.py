"""`{verifier: math}`: the score of a verdict.

With `spans: true` the part of the answer that decided it (the final answer, the line with the error) gets a value from -1 (FAIL) to 1
(PASS), so that span-level algorithms can pay the very tokens; feedback at the place of the error as in RLTF (Liu et al. 2023, arXiv
2307.04349).
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.struct_pb2 import Struct

from rewardmesh.gateway.asking import Answer, Asker, Metadata, Reading
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

    def answers(self, samples: Sequence[pb.Sample], readings: Sequence[Reading]) -> list[Answer]:
        answers = super().answers(samples, readings)
        if self.signal.spans:
            for answer in answers:
                verdict = answer.component.verdict.verdict
                if verdict.location.HasField("span"):
                    verdict.location.span.value = 2 * verdict.score - 1
        return answers

    def outcome_id(self, outcome: api.VerdictOutcome) -> str:
        return outcome.sample_id

    def value_of(self, outcome: api.VerdictOutcome) -> float:
        return outcome.verdict.score
