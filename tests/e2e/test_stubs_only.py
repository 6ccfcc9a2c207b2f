"""A program that has only grpcio and the generated stubs talks to the whole mesh."""

from __future__ import annotations

import asyncio
import json
import sys

PROGRAM = """
import json, sys
import grpc
from rewardmesh.v1 import common_pb2 as pb, judge_service_pb2 as judge, log_prob_service_pb2 as lp, mesh_service_pb2 as mesh
from rewardmesh.v1 import reward_service_pb2 as reward, verifier_service_pb2 as verifier
from rewardmesh.v1 import judge_service_pb2_grpc, log_prob_service_pb2_grpc, mesh_service_pb2_grpc
from rewardmesh.v1 import reward_service_pb2_grpc, verifier_service_pb2_grpc

at = json.loads(sys.argv[1])
channel = {name: grpc.insecure_channel(address) for name, address in at.items()}
prompt = [pb.Message(role=pb.ROLE_USER, content="Ann has 12 apples and buys 7 more.")]
def sample(i, text):
    return pb.Sample(id=str(i), prompt=prompt, completion=pb.Completion(text=text), group_id="g", references=["19"])
samples = [sample(0, "The answer is 19"), sample(1, "The answer is 18")]
scores = reward_service_pb2_grpc.RewardServiceStub(channel["reward"]).Score(reward.ScoreRequest(samples=samples))
pair = judge.Pair(id="p", prompt=prompt, a=samples[0].completion, b=samples[1].completion)
compared = judge_service_pb2_grpc.JudgeServiceStub(channel["judge"]).Compare(judge.CompareRequest(pairs=[pair]))
checking = verifier_service_pb2_grpc.VerifierServiceStub(channel["verifier"])
verified = checking.Verify(verifier.VerifyRequest(verifier="math", samples=samples))
ids = lambda *values: pb.Int32Array(data=b"".join(v.to_bytes(4, "little") for v in values), length=len(values))
sequence = lp.TokenSequence(id="s", prompt_ids=ids(5, 6, 7), completion_ids=ids(8, 9))
tokens = log_prob_service_pb2_grpc.LogProbServiceStub(channel["logprob"]).ScoreTokens(lp.ScoreTokensRequest(sequences=[sequence]))
evaluated = mesh_service_pb2_grpc.MeshServiceStub(channel["gateway"]).Evaluate(mesh.EvaluateRequest(samples=samples))
print(json.dumps({
    "score": [o.WhichOneof("result") for o in scores.outcomes],
    "compare": [o.WhichOneof("result") for o in compared.outcomes],
    "verify": [o.verdict.status for o in verified.outcomes],
    "tokens": [o.log_probs.log_probs.length for o in tokens.outcomes],
    "evaluate": [o.outcome.WhichOneof("result") for o in evaluated.evaluations],
    "components": sorted(c.signal for c in evaluated.evaluations[0].components),
    "extra": sorted(m for m in ("numpy", "torch", "pydantic") if m in sys.modules),
}))
"""


async def test_score_compare_verify_tokens_evaluate(mesh: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, json.dumps(mesh), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out) == {
        "score": ["reward", "reward"],
        "compare": ["preference"],
        "verify": [1, 2],
        "tokens": [2],
        "evaluate": ["reward", "reward"],
        "components": ["helpful", "prefer", "short"],
        "extra": [],
    }
