"""Fake servers on real sockets: the network is the process edge of a client."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rewardmesh.client import pack_floats, unpack_ints
from rewardmesh.v1 import (
    common_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    judge_service_pb2,
    judge_service_pb2_grpc,
    log_prob_service_pb2,
    log_prob_service_pb2_grpc,
    mesh_service_pb2,
    mesh_service_pb2_grpc,
    reward_service_pb2,
    reward_service_pb2_grpc,
    verifier_service_pb2,
    verifier_service_pb2_grpc,
)

Hook = Callable[[Any, grpc.ServicerContext], None]


def outcome(sample: common_pb2.Sample) -> common_pb2.Outcome:
    return common_pb2.Outcome(sample_id=sample.id, reward=common_pb2.Reward(value=len(sample.completion.text)))


class FakeServer:
    """Scores a sample by the length of its completion; `hook` sees every request first and may abort."""

    def __init__(self, ip: str = "127.0.0.1", port: int = 0) -> None:
        self.ip = ip
        self.hook: Hook = lambda request, context: None
        self.policy_version = 1
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.health = health.HealthServicer()
        self.server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 64 << 20)])
        reward_service_pb2_grpc.add_RewardServiceServicer_to_server(_Reward(self), self.server)
        verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server(_Verifier(self), self.server)
        mesh_service_pb2_grpc.add_MeshServiceServicer_to_server(_Mesh(self), self.server)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(_Generation(self), self.server)
        log_prob_service_pb2_grpc.add_LogProbServiceServicer_to_server(_LogProb(self), self.server)
        judge_service_pb2_grpc.add_JudgeServiceServicer_to_server(_Judge(self), self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.set_health("SERVING")
        self.port = self.server.add_insecure_port(f"{ip}:{port}")
        self.address = f"{ip}:{self.port}"
        self.server.start()

    def seen(self, request: Any, context: grpc.ServicerContext) -> None:
        with self.lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
        self.hook(request, context)

    def set_health(self, status: str) -> None:
        self.health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))

    def stop(self, grace: float | None = None) -> None:
        self.server.stop(grace).wait(10)


class _Reward(reward_service_pb2_grpc.RewardServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Score(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        return reward_service_pb2.ScoreResponse(outcomes=[outcome(sample) for sample in request.samples])

    def StreamScores(self, request_iterator: Any, context: Any) -> Any:
        for request in request_iterator:
            self.fake.seen(request, context)
            for sample in request.samples:
                yield reward_service_pb2.StreamScoresResponse(outcome=outcome(sample))


class _Verifier(verifier_service_pb2_grpc.VerifierServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Verify(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        verdicts = []
        for sample in request.samples:
            right = sample.completion.text in sample.references
            verdict = verifier_service_pb2.Verdict(status=1 if right else 2, score=float(right))  # type: ignore[arg-type]
            verdicts.append(verifier_service_pb2.VerdictOutcome(sample_id=sample.id, verdict=verdict))
        return verifier_service_pb2.VerifyResponse(outcomes=verdicts)

    def StreamVerify(self, request_iterator: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")

    def ListVerifiers(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        return verifier_service_pb2.ListVerifiersResponse(verifiers=[verifier_service_pb2.VerifierInfo(name="exact")])


class _Mesh(mesh_service_pb2_grpc.MeshServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Evaluate(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        return mesh_service_pb2.EvaluateResponse(evaluations=_evaluations(request.samples), program_fingerprint="f00")

    def StreamEvaluate(self, request_iterator: Any, context: Any) -> Any:
        for request in request_iterator:
            self.fake.seen(request, context)
            if request.samples:
                yield mesh_service_pb2.StreamEvaluateResponse(evaluations=_evaluations(request.samples), program_fingerprint="f00")

    def DescribeProgram(self, request: Any, context: Any) -> Any:
        return mesh_service_pb2.DescribeProgramResponse(program=request.program)

    def ListPrograms(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        return mesh_service_pb2.ListProgramsResponse(programs=["a", "b"])

    def SelectBest(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        best = max(request.samples, key=lambda sample: len(sample.completion.text))
        return mesh_service_pb2.SelectBestResponse(best_sample_id=best.id, evaluations=_evaluations(request.samples))


def _evaluations(samples: Any) -> list[mesh_service_pb2.Evaluation]:
    return [
        mesh_service_pb2.Evaluation(
            outcome=outcome(sample), components=[mesh_service_pb2.Component(signal="length", value=len(sample.completion.text))]
        )
        for sample in samples
    ]


class _Generation(generation_service_pb2_grpc.GenerationServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Generate(self, request: Any, context: Any) -> Any:
        for prompt in request.prompts:
            for index in range(max(1, request.n)):
                self.fake.seen(request, context)
                completion = common_pb2.Completion(text=f"{prompt.id}{index}")
                yield generation_service_pb2.GenerateResponse(prompt_id=prompt.id, index=index, completion=completion)


class _LogProb(log_prob_service_pb2_grpc.LogProbServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def ScoreTokens(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        outcomes = [
            log_prob_service_pb2.TokenLogProbsOutcome(
                sequence_id=sequence.id,
                log_probs=log_prob_service_pb2.TokenLogProbs(log_probs=common_pb2.Float32Array(data=b"\0\0\x80\xbf", length=1), sum=-1.0),
                provenance=common_pb2.Provenance(model=policy),
            )
            for sequence in request.sequences
            for policy in request.policies or [common_pb2.ModelRef(name="default")]
        ]
        return log_prob_service_pb2.ScoreTokensResponse(outcomes=outcomes)

    def ScoreSuffixes(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        outcomes = []
        for prefix in request.prefixes:
            values = pack_floats(-float(prefix.token_ids.length + suffix.length) for suffix in request.suffixes)
            outcomes.append(
                log_prob_service_pb2.SuffixScoresOutcome(prefix_id=prefix.id, scores=log_prob_service_pb2.SuffixScores(values=values))
            )
        return log_prob_service_pb2.ScoreSuffixesResponse(outcomes=outcomes)

    def StreamNextLogits(self, request_iterator: Any, context: Any) -> Any:
        seen: list[int] = []
        for request in request_iterator:
            seen += unpack_ints(request.token_ids)
            self.fake.seen(request, context)
            # What was said so far, as logits: a test sees whether a session that was taken up again still knows all of it.
            reply = log_prob_service_pb2.StreamNextLogitsResponse(logits=pack_floats(seen), remainder=0.25)
            if request.policy.name:
                reply.policy.CopyFrom(common_pb2.ModelRef(name=request.policy.name, version=self.fake.policy_version))
            yield reply


class _Judge(judge_service_pb2_grpc.JudgeServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Compare(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        outcomes = [
            judge_service_pb2.PreferenceOutcome(
                pair_id=pair.id, preference=judge_service_pb2.Preference(p_a=float(len(pair.a.text) > len(pair.b.text)))
            )
            for pair in request.pairs
        ]
        return judge_service_pb2.CompareResponse(outcomes=outcomes)

    def Grade(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        grade = judge_service_pb2.Grade(criterion_id="clear", score=4, min=1, max=5)
        outcomes = [
            judge_service_pb2.GradesOutcome(sample_id=sample.id, grades=judge_service_pb2.Grades(grades=[grade], total=0.75))
            for sample in request.samples
        ]
        return judge_service_pb2.GradeResponse(outcomes=outcomes)

    def Rank(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        outcomes = []
        for group in request.groups:
            lengths = [len(each.text) for each in group.completions]
            order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
            ranking = judge_service_pb2.Ranking(order=order, scores=[length / 10 for length in lengths])
            outcomes.append(judge_service_pb2.RankingOutcome(group_id=group.id, ranking=ranking))
        return judge_service_pb2.RankResponse(outcomes=outcomes)

    def Critique(self, request: Any, context: Any) -> Any:
        self.fake.seen(request, context)
        outcomes = []
        for sample in request.samples:
            critique = judge_service_pb2.Critique(text=f"{len(sample.completion.text)} letters")
            if request.want_revision:
                critique.revised_completion.text = sample.completion.text.upper()
            outcomes.append(judge_service_pb2.CritiqueOutcome(sample_id=sample.id, critique=critique))
        return judge_service_pb2.CritiqueResponse(outcomes=outcomes)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Start fake servers; all are stopped at the end of the test."""
    started: list[FakeServer] = []

    def start(ip: str = "127.0.0.1", port: int = 0) -> FakeServer:
        started.append(FakeServer(ip, port))
        return started[-1]

    yield start
    for fake in started:
        fake.stop()


@pytest.fixture
def fake(serve: Callable[..., FakeServer]) -> FakeServer:
    return serve()


class ReplicaProcess:
    """A replica in a process of its own (see replica_process.py)."""

    def __init__(self, seconds: float) -> None:
        command = [sys.executable, str(Path(__file__).with_name("replica_process.py")), "--seconds", str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait(self) -> None:
        assert self.process.stdout
        self.address = f"127.0.0.1:{int(self.process.stdout.readline())}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def spawn() -> Iterator[Callable[..., list[ReplicaProcess]]]:
    """spawn(count, seconds=0.0): replicas in processes of their own, which may be killed and frozen."""
    started: list[ReplicaProcess] = []

    def start(count: int, seconds: float = 0.0) -> list[ReplicaProcess]:
        new = [ReplicaProcess(seconds) for _ in range(count)]
        started.extend(new)
        for replica in new:
            replica.wait()
        return new

    yield start
    for replica in started:
        replica.kill()
        assert replica.process.stdout
        replica.process.stdout.close()
