"""Where a run's numbers go: metrics.jsonl, TensorBoard, Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from prometheus_client import Counter, Gauge, Histogram
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rewardmesh.serving.metrics import start_metrics_server
from rewardmesh.trainer.history import History
from rewardmesh.trainer.step import NOT_SELECTED, Collected

STEP = Gauge("rewardmesh_trainer_step", "Steps finished.")
STEPS = Counter("rewardmesh_trainer_steps", "Steps finished by this process.")
STEP_SECONDS = Histogram("rewardmesh_trainer_step_seconds", "Duration of a step.", buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800))
PHASE_SECONDS = Counter("rewardmesh_trainer_phase_seconds", "Time by phase of the step.", ["phase"])
REWARD_WAIT = Gauge("rewardmesh_trainer_reward_wait_fraction", "Share of the last step spent waiting for rewards.")
REWARD = Gauge("rewardmesh_trainer_reward", "Mean composed reward of the last step.")
KL = Gauge("rewardmesh_trainer_kl_nats", "Mean sequence KL to the reference in the last step, nats.")
LENGTH = Gauge("rewardmesh_trainer_completion_tokens", "Mean completion length of the last step.")
SAMPLES = Counter("rewardmesh_trainer_samples", "Samples by what came of their reward.", ["outcome"])
ABSENCES = Counter("rewardmesh_trainer_absences", "Absences by signal and reason.", ["signal", "reason"])
POLICY_VERSION = Gauge("rewardmesh_trainer_policy_version", "Version the generator samples from.")


class Tracking:
    """Writes one step's metrics everywhere at once."""

    def __init__(self, run_dir: Path, metrics_host: str, metrics_port: int | None) -> None:
        self.history = History(run_dir / "metrics.jsonl")
        self._events = EventFileWriter(str(run_dir / "tensorboard"))
        self.metrics_address: str | None = None
        self._close_metrics: Callable[[], None] | None = None
        if metrics_port is not None:
            port, self._close_metrics = start_metrics_server(metrics_host, metrics_port)
            self.metrics_address = f"{metrics_host}:{port}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a finished step."""
        self.history.append(step, metrics)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._events.add_event(Event(step=step, summary=Summary(value=values)))
        STEP.set(step)
        STEPS.inc()
        STEP_SECONDS.observe(metrics["seconds_total"])
        for phase in ("generate", "score", "reference", "train", "publish"):
            PHASE_SECONDS.labels(phase).inc(metrics[f"seconds_{phase}"])
        REWARD_WAIT.set(metrics["reward_wait_fraction"])
        POLICY_VERSION.set(metrics["policy_version"])
        for gauge, name in ((REWARD, "reward_mean"), (KL, "kl"), (LENGTH, "length_mean")):
            if name in metrics:
                gauge.set(metrics[name])

    def close(self) -> None:
        """Flush and stop serving."""
        self._events.close()
        if self._close_metrics:
            self._close_metrics()


def describe(collected: Collected) -> dict[str, float]:
    """Metrics of what the mesh said in a step: means over what is present, counts of what is absent or was not asked for.

    Means are over the policy's own samples (over all where there are none); counts over all. `kl` is the mean over the policy's samples
    of sum_t (log pi - log pi_ref), the k1 estimate of the sequence KL, in nats.
    """
    everything = [pair for group in collected.groups for pair in zip(group.rollouts, group.scores, strict=True)]
    present = sum(score.reward is not None for _, score in everything)
    skipped = sum(score.absence == NOT_SELECTED for _, score in everything)
    absent = len(everything) - present - skipped
    own = [pair for pair in everything if pair[0].source == "policy"] or everything
    scores = [score for _, score in own]
    rewards = [score.reward for score in scores if score.reward is not None]
    metrics: dict[str, float] = {
        "reward_present": float(present),
        "reward_absent": float(absent),
        "reward_not_selected": float(skipped),
        "length_mean": float(np.mean([rollout.length for rollout, _ in own])),
        "truncated_fraction": float(np.mean([rollout.finish_reason == "length" for rollout, _ in own])),
        **collected.metrics,
    }
    if rewards:
        metrics.update(reward_mean=float(np.mean(rewards)), reward_std=float(np.std(rewards)))
    by_component: dict[str, list[float]] = {}
    absences: Tally[str] = Tally()
    for score in scores:
        for name, value in score.components.items():
            if value is not None:
                by_component.setdefault(name, []).append(value)
    for _, score in everything:
        absences.update(f"{name}/{reason}" for name, reason in score.component_absences.items())
    metrics.update({f"component/{name}": float(np.mean(values)) for name, values in sorted(by_component.items())})
    metrics.update({f"absences/{name}": float(count) for name, count in sorted(absences.items())})
    ratios = [
        float(np.sum(rollout.sampling_log_probs, dtype=np.float64) - np.sum(reference, dtype=np.float64))
        for group in collected.groups
        for rollout, reference in zip(group.rollouts, group.reference_log_probs, strict=True)
        if reference is not None and rollout.source == "policy"
    ]
    if ratios:
        metrics["kl"] = float(np.mean(ratios))
    for outcome, count in (("present", present), ("absent", absent), ("not_selected", skipped)):
        SAMPLES.labels(outcome).inc(count)
    for name, count in absences.items():
        signal, _, reason = name.rpartition("/")
        ABSENCES.labels(signal, reason).inc(count)
    return metrics
