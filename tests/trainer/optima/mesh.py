"""The bandit behind the real mesh: a verifier service and a gateway on loopback, asked by the trainer's own client as in a run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from rewardmesh import gateway, verifier
from rewardmesh.serving import Server
from rewardmesh.trainer.mesh import Mesh
from rewardmesh.trainer.prompts import Prompt
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.samples import Rollout
from rewardmesh.v1 import judge_service_pb2 as pb
from rewardmesh.v1 import judge_service_pb2_grpc

from .problems import BANDIT
from .training import Actions, Judged

PROGRAMS = ("rewards", "failing", "preferences")
PROMPT = Prompt("p", (("user", "Pull an arm."),), ())


class _Preferences(judge_service_pb2_grpc.JudgeServiceServicer):
    """Compares arms by the bandit's preferences; an arm is the first word of a completion."""

    async def Compare(self, request: pb.CompareRequest, context: Any) -> pb.CompareResponse:
        response = pb.CompareResponse()
        for pair in request.pairs:
            p = BANDIT.preferences[int(pair.a.text.split()[0]), int(pair.b.text.split()[0])]
            response.outcomes.add(pair_id=pair.id).preference.CopyFrom(pb.Preference(p_a=p, p_a_as_given=p, p_a_swapped=p, agreement=1))
        return response


class BanditMesh:
    """Asks a program of the gateway for the scores of a group; `program` is one of PROGRAMS."""

    def __init__(self, client: Mesh) -> None:
        self._client = client
        self.samples = self.absences = 0

    async def judge(self, actions: Actions, rng: np.random.Generator) -> Judged:
        """One Evaluate call; each sample brings the luck that decides whether it can be checked."""
        rollouts = []
        prompt = np.zeros(1, np.int32)
        # Uniform for each sample and spread evenly over those of an action, as the samples are over the policy.
        luck = np.empty(len(actions))
        for action in np.unique(actions):
            places = np.flatnonzero(actions == action)
            luck[places] = (rng.permutation(len(places)) + rng.uniform()) / len(places)
        for k, action in enumerate(actions):
            text = f"{action} {luck[k]}"
            rollouts.append(Rollout(f"{k}", "g", prompt, np.array([action], np.int32), np.zeros(1, np.float32), text, "", "stop", 0))
        answer = await self._client.evaluate(PROMPT, rollouts)
        self.samples += len(answer.scores)
        self.absences += sum(scores.absence is not None for scores in answer.scores)
        return Judged(answer.scores, answer.preferences)

    async def judge_arms(self, actions: Actions, rng: np.random.Generator) -> Judged:
        """As `judge`, but every arm is evaluated once however often it was sampled: for comparisons, of which there are many."""
        answer = await self.judge(np.arange(BANDIT.actions), rng)
        assert answer.preferences is not None
        matrix = np.where(np.eye(BANDIT.actions, dtype=bool), 0.5, answer.preferences)
        return Judged([answer.scores[a] for a in actions], matrix[np.ix_(actions, actions)])


def _programs(folder: Path) -> None:
    """`rewards`: the bandit's. `failing`: the same from a verifier that cannot always tell. `preferences`: those of the judge."""
    low, span = float(BANDIT.reward.min()), float(np.ptp(BANDIT.reward))
    scores = ((BANDIT.reward - low) / span).tolist()
    shaped = {"of": "arm", "shape": {"linear": {"scale": span, "offset": low}}}
    arms: dict[str, Any] = {"verifier": "bandit", "options": {"scores": scores}}
    failing = {"verifier": "bandit", "options": {"scores": scores, "failures": BANDIT.failure.tolist()}}
    programs: dict[str, dict[str, Any]] = {
        "rewards": {"signals": {"arm": arms}, "reward": shaped},
        "failing": {"signals": {"arm": failing}, "reward": shaped, "on_absence": {"arm": "drop"}},
        "preferences": {"signals": {"beats": {"judge": "arms", "mode": "compare", "against": "group"}}, "reward": "beats"},
    }
    for name, program in programs.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, **program}))  # JSON is YAML


@asynccontextmanager
async def bandit_mesh(folder: Path, program: str) -> AsyncIterator[BanditMesh]:
    """The running services, and a client that asks for `program`; the package `arms` must be importable."""
    _programs(folder)
    async with AsyncExitStack() as stack:
        judge = grpc.aio.server()
        judge_service_pb2_grpc.add_JudgeServiceServicer_to_server(_Preferences(), judge)  # type: ignore[abstract]
        judge_address = f"127.0.0.1:{judge.add_insecure_port('127.0.0.1:0')}"
        await judge.start()
        stack.push_async_callback(judge.stop, 0)

        async def up(server: Server) -> str:
            await server.start()
            stack.push_async_callback(server.stop)
            return server.address

        scorer = await up(await verifier.create_server(verifier.Config(workers=1, port=0, verifier_packages=("arms",), drain_seconds=1)))
        backends = {"verifier": scorer, "judge": judge_address}
        address = await up(await gateway.create_server(gateway.Config(programs=[folder], backends=backends, port=0, drain_seconds=1)))
        recipe = Recipe.model_validate(
            {
                "run_dir": folder,
                "policy": "none",
                "prompts": {"path": folder / "none.jsonl"},
                "services": dict.fromkeys(("gateway", "generation", "logprob"), address),
                "program": program,
                "algorithm": {"name": "online_dpo"},
            }
        )
        client = Mesh(recipe)
        stack.push_async_callback(client.close)
        yield BanditMesh(client)
