"""The training loop: prompts → generate → score → credit → packed step → new version, with nothing lost when something dies.

Synchronous: every sample of a step comes from the version the last step made. A step depends on the recipe, its number and the weights
alone, so a killed run that resumes from its last checkpoint walks the same path, bit for bit (where the services are batch-invariant).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from opentelemetry import trace

from rewardmesh.engine.loading import write_version
from rewardmesh.serving.config import ConfigError
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.metrics import Stopwatch
from rewardmesh.trainer.checkpoint import Checkpoint, Checkpoints
from rewardmesh.trainer.codec import Codec
from rewardmesh.trainer.credit import Credit
from rewardmesh.trainer.evaluation import Answers, answer_heldout, compare_rewards, heldout_kl
from rewardmesh.trainer.held import HeldPolicies
from rewardmesh.trainer.ledger import Ledger, rows_of_group
from rewardmesh.trainer.mesh import Mesh, MeshUnavailable
from rewardmesh.trainer.policy import Policy
from rewardmesh.trainer.prompts import PromptSet
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.trainer.report import write_report
from rewardmesh.trainer.report.evaluation import write_evaluation
from rewardmesh.trainer.samplers import SamplerChain
from rewardmesh.trainer.samples import FloatArray, Rollout, all_rollouts
from rewardmesh.trainer.step import Collected, Collector
from rewardmesh.trainer.summary import summarise, write_json
from rewardmesh.trainer.tracking import Tracking, describe

log = get_logger(__name__)
tracer = trace.get_tracer(__name__)

_SCORED_TOGETHER = 32
"""Rollouts whose log-probs are taken in one forward pass, where nobody sampled them."""

OnStep = Callable[[int, Mapping[str, float]], None]


async def train(recipe: Recipe, *, resume: bool = True, on_step: OnStep | None = None) -> dict[str, object]:
    """Run a recipe to its end; returns the summary that is also in `summary.json`.

    Args:
        resume: continue from the newest checkpoint in the run's folder; else the folder must be new or empty.
        on_step: called with (step, metrics) after every step, and with step 0 after the first evaluation.

    Raises:
        ConfigError: files or settings that do not fit.
        MeshUnavailable: the mesh did not answer within the recipe's patience; resume when it is back.
        CheckpointError, LedgerError: the disk refuses.
    """
    trainer = Trainer(recipe, resume=resume)
    try:
        return await trainer.run(on_step)
    finally:
        await trainer.close()


class Trainer:
    """One run; make it inside the event loop that runs it."""

    def __init__(self, recipe: Recipe, *, resume: bool) -> None:
        self.recipe = recipe
        self.run_dir = recipe.run_dir
        self._checkpoints = Checkpoints(self.run_dir / "checkpoints", recipe.keep_checkpoints)
        start = self._checkpoints.latest() if resume else None
        if (
            not resume
            and self.run_dir.exists()
            and any((self.run_dir / name).exists() for name in ("ledger", "checkpoints", "metrics.jsonl"))
        ):
            raise ConfigError(f"run_dir: {self.run_dir} holds a run already; resume it, or name another folder")
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self._algorithm = recipe.make_algorithm()
        prompts = PromptSet(recipe.prompts, recipe.seed)
        self._ledger = Ledger(self.run_dir / "ledger")
        self.policy = Policy(recipe, self._algorithm, str(start.policy) if start else recipe.policy)
        self.step = start.step if start else 0
        self._tracking = Tracking(self.run_dir, recipe.metrics_host, recipe.metrics_port)
        codec = Codec(self.policy.tokenizer, self.policy.model)
        self._mesh = Mesh(recipe)
        self._mesh.decode = codec.decode
        self._samplers = SamplerChain(recipe.make_samplers())
        self._held = HeldPolicies(self.run_dir / "held", self._samplers.checkpoints)
        self._held.forget_after(self.step)
        self._collector = Collector(
            self._mesh,
            recipe,
            self._samplers,
            prompts,
            codec,
            reference=self._algorithm.needs_reference,
            log_probs=self._log_probs,
        )
        self._program = ""
        if start:
            self._restore(start)
        self._ledger.truncate_after(self.step)
        self._tracking.history.truncate_after(self.step)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        if state["recipe"] != self.recipe.fingerprint():
            raise ConfigError(
                f"{checkpoint.path}: was made by another recipe (seed, policy, algorithm or sampling differ); start a new run_dir"
            )
        self.policy.load_state(state["policy"])
        self._algorithm.load_state(state["algorithm"])
        self._collector.load_state(state["collector"])
        self._mesh.requests.update(state["requests"])
        self._mesh.absences.update({tuple(name.split("/", 1)): count for name, count in state["absences"].items()})
        log.info("resuming", step=checkpoint.step, path=str(checkpoint.path))

    async def run(self, on_step: OnStep | None) -> dict[str, object]:
        """Evaluate, train to the last step, evaluate, report."""
        (self.run_dir / "recipe.yaml").write_text(yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False))
        self._program = await self._mesh.describe()
        (self.run_dir / "program.yaml").write_text(self._program)
        await self._publish(self.step)
        before = await self._evaluate_before()
        if on_step and before:
            on_step(0, {"accuracy": before["sampled"].accuracy, "accuracy_greedy": before["greedy"].accuracy})
        while self.step < self.recipe.steps:
            metrics = await self._one_step(self.step + 1)
            if on_step:
                on_step(self.step, metrics)
        if self._checkpoints_due(last=True):
            self._save()
        return await self._finish(before)

    async def close(self) -> None:
        """Close connections and sinks."""
        self._tracking.close()
        await self._mesh.close()

    async def _one_step(self, step: int) -> dict[str, float]:
        """Walk one step; it counts when its ledger file is there."""
        watch = Stopwatch()
        rng = np.random.default_rng([self.recipe.seed, step])
        with tracer.start_as_current_span("step", attributes={"step": step}):
            version = self._mesh.policy.version
            with tracer.start_as_current_span("collect"):
                collected = await self._collector.collect(step)
            metrics = describe(collected)
            self._check_absences(step, metrics)
            training = Stopwatch()
            with tracer.start_as_current_span("train"):
                credit, learned = await asyncio.to_thread(self._learn, collected, rng)
            seconds = {**collected.seconds, "train": training.seconds}
            publishing = Stopwatch()
            with tracer.start_as_current_span("publish"):
                await self._publish(step)
            seconds["publish"] = publishing.seconds
        total = watch.seconds
        metrics.update(learned)
        metrics.update({f"seconds_{name}": value for name, value in seconds.items()})
        metrics.update(
            seconds_total=total,
            reward_wait_fraction=seconds["score"] / total,
            policy_version=float(version),
        )
        self._write_ledger(step, collected, credit)
        self.step = step
        if self._heldout_due(step):
            answers = await answer_heldout(self._mesh, self.recipe, greedy=False, tag=f"heldout-{step:06d}")
            metrics["accuracy"] = answers.accuracy
            kl = await heldout_kl(self._mesh, answers)
            if kl is not None:
                metrics["heldout_kl"] = kl
        self._tracking.log(step, metrics)
        if self._checkpoints_due():
            self._save()
        return metrics

    def _learn(self, collected: Collected, rng: np.random.Generator) -> tuple[Credit | None, dict[str, float]]:
        """Credit and the optimiser steps; runs off the event loop. None where the samplers have kept nothing."""
        if not collected.learned:
            log.warning("the samplers kept nothing of this step")
            return None, {"optimiser_steps": 0.0}
        values = self.policy.old_values(all_rollouts(collected.learned))
        credit = self._algorithm.credit(collected.learned, rng, values)
        metrics = {f"left_out/{name}": float(count) for name, count in credit.left_out.items()}
        if credit.is_empty:
            log.warning("no sample of this step can be learned from", left_out=dict(credit.left_out))
            return credit, {**metrics, **credit.metrics, "optimiser_steps": 0.0}
        if credit.needs_old_log_probs:
            credit = credit.with_old_log_probs(torch.from_numpy(np.concatenate(self._log_probs(credit.rollouts))))
        metrics.update(credit.metrics)
        metrics.update(self.policy.update(self._algorithm, credit, rng))
        metrics.update(self._algorithm.finish_step(credit))
        return credit, metrics

    def _check_absences(self, step: int, metrics: Mapping[str, float]) -> None:
        absent = metrics["reward_absent"] / (metrics["reward_absent"] + metrics["reward_present"])
        if absent > self.recipe.patience.max_absent_fraction:
            reasons = ", ".join(
                f"{name.removeprefix('absences/')}: {count:.0f}" for name, count in metrics.items() if name.startswith("absences/")
            )
            raise MeshUnavailable(
                f"step {step}: {absent:.0%} of the samples have no reward, more than patience.max_absent_fraction "
                f"{self.recipe.patience.max_absent_fraction:.0%} ({reasons})"
            )

    def _log_probs(self, rollouts: Sequence[Rollout]) -> list[FloatArray]:
        """Per-token log-probs under the policy in training, float32 [m] each."""
        found: list[FloatArray] = []
        with torch.no_grad():
            for part in (rollouts[start : start + _SCORED_TOGETHER] for start in range(0, len(rollouts), _SCORED_TOGETHER)):
                values = self.policy.log_probs(part).float().cpu().numpy()
                found += np.split(values, np.cumsum([rollout.length for rollout in part])[:-1])
        return found

    def _write_ledger(self, step: int, collected: Collected, credit: Credit | None) -> None:
        given = credit.ledger_rows() if credit else {}
        rows = []
        for group, attempts, details in zip(collected.groups, collected.attempts, collected.details, strict=True):
            entries = [given.get(rollout.id) for rollout in group.rollouts]
            kinds = {entry["credit_kind"] for entry in entries if entry}
            rows += rows_of_group(
                group,
                credit=[entry["credit"] if entry else None for entry in entries],
                credit_kind=next(iter(kinds), None),
                attempts=attempts,
                absence_details=details,
            )
        self._ledger.write(step, rows)

    async def _publish(self, step: int) -> None:
        """Hand the weights after `step` to who writes completions; only the version in use, and those held for samplers, stay on disk."""
        folder = self.run_dir / "weights"
        path = folder / f"step-{step:06d}-{time.time_ns()}"
        await asyncio.to_thread(write_version, path, self.policy.model, self.policy.tokenizer)
        await self._mesh.publish(path)
        if self._samplers.needs_policy_logits:
            await self._mesh.publish_logits(path)
        await asyncio.to_thread(self._held.remember, step, path)
        await self._mesh.hold(self._held.needed(step + 1))
        for old in folder.iterdir():
            if old != path:
                shutil.rmtree(old)

    def _save(self) -> None:
        state = {
            "recipe": self.recipe.fingerprint(),
            "policy": self.policy.state(),
            "algorithm": dict(self._algorithm.state()),
            "collector": self._collector.state(),
            "requests": dict(self._mesh.requests),
            "absences": {"/".join(key): count for key, count in self._mesh.absences.items()},
        }
        self._checkpoints.save(self.step, self.policy.model, self.policy.tokenizer, state)
        self._held.forget_before(self.step + 1)

    def _checkpoints_due(self, *, last: bool = False) -> bool:
        newest = self._checkpoints.latest()
        if newest and newest.step == self.step:
            return False
        return last or self.step % self.recipe.checkpoint_every == 0

    def _heldout_due(self, step: int) -> bool:
        every = self.recipe.evaluation.every if self.recipe.evaluation else 0
        return bool(every) and step % every == 0

    async def _evaluate(self, tag: str) -> dict[str, Answers]:
        return {
            "sampled": await answer_heldout(self._mesh, self.recipe, greedy=False, tag=f"{tag}-sampled"),
            "greedy": await answer_heldout(self._mesh, self.recipe, greedy=True, tag=f"{tag}-greedy"),
        }

    async def _evaluate_before(self) -> dict[str, Answers]:
        """The initial policy's answers; a resumed run asks the initial policy again, so that both ends are measured alike."""
        if self.recipe.evaluation is None:
            return {}
        if self.step == 0:
            return await self._evaluate("before")
        await self._mesh.publish(Path(self.recipe.policy))
        answers = await self._evaluate("before")
        await self._publish(self.step)
        return answers

    async def _finish(self, before: dict[str, Answers]) -> dict[str, object]:
        after = await self._evaluate("after") if self.recipe.evaluation else {}
        scores = await compare_rewards(self._mesh, before["sampled"], after["sampled"]) if before else ([], [])
        for name, answers, compared in (("before", before, scores[0]), ("after", after, scores[1])):
            if answers:
                rows = answers["sampled"].rows("sampled", compared) + answers["greedy"].rows("greedy")
                write_evaluation(self.run_dir / f"eval_{name}.parquet", rows)
        self._ledger.merge(self.run_dir / "samples.parquet")
        summary = summarise(
            self.recipe, self._mesh, self._tracking.history.read(), self._ledger.check(last_step=self.recipe.steps), before, after, scores
        )
        if after:
            summary["heldout_kl"] = await heldout_kl(self._mesh, after["sampled"])
        write_json(self.run_dir / "summary.json", summary)
        await asyncio.to_thread(write_report, self.run_dir)
        return summary
