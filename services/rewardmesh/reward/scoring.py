"""Reward-model scores: the head's outputs at the last token, checked and composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.serving.errors import invalid_argument
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

SCALES = {"logit": pb.SCALE_KIND_LOGIT, "probability": pb.SCALE_KIND_PROBABILITY, "unit": pb.SCALE_KIND_UNIT}


@dataclass(frozen=True)
class Objectives:
    """Names of the head's outputs with their default weights; one unnamed output is a scalar reward."""

    names: tuple[str, ...]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, model: ServedModel, names: Sequence[str], weights: Mapping[str, float]) -> Objectives:
        """Match configured names with the model's head.

        Raises:
            LoadError: the counts differ, or a weight names no objective.
        """
        outputs = len(model.output_names)
        names = tuple(names) or (() if outputs == 1 else model.output_names)
        if names and len(names) != outputs:
            raise LoadError(f"objectives: {len(names)} names given, the head has {outputs} outputs")
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise LoadError(f"objective_weights: {unknown[0]!r} is no objective; known: {', '.join(names) or 'none (a scalar head)'}")
        return cls(names, {name: weights.get(name, 0.0 if weights else 1 / len(names)) for name in names})

    def check(self, model: ServedModel) -> None:
        """Raise LoadError unless a later version has as many outputs as the first."""
        outputs, wanted = len(model.output_names), len(self.names) or 1
        if outputs != wanted:
            raise LoadError(f"the head of version {model.version} has {outputs} outputs, this service serves {wanted}")

    def resolve(self, wanted: Mapping[str, float]) -> Mapping[str, float]:
        """Weights of a call: the caller's, or the defaults.

        Raises:
            CallError: INVALID_ARGUMENT for an unknown objective or a weight that is no finite number.
        """
        unknown = sorted(set(wanted) - set(self.names))
        if unknown:
            raise invalid_argument(
                f"options.objective_weights[{unknown[0]}]", f"unknown objective; known: {', '.join(self.names) or 'none'}"
            )
        for name, weight in wanted.items():
            if not _finite(weight):
                raise invalid_argument(f"options.objective_weights[{name}]", f"{weight} is not finite")
        return {name: wanted.get(name, 0.0) for name in self.names} if wanted else self.weights


def compose(
    outputs: Sequence[float], objectives: Objectives, weights: Mapping[str, float], scale: pb.ScaleKind.ValueType
) -> pb.Reward | pb.Absence:
    """A Reward from raw outputs, or NON_FINITE."""
    if not all(map(_finite, outputs)):
        return absence(pb.ABSENCE_REASON_NON_FINITE, "the model computed NaN or infinity")
    if not objectives.names:
        return pb.Reward(value=outputs[0], scale=pb.Scale(kind=scale))
    value = sum(weights[name] * output for name, output in zip(objectives.names, outputs, strict=True))
    if not _finite(value):
        return absence(pb.ABSENCE_REASON_NON_FINITE, "the weighted sum of the objectives is no finite float32")
    parts = [
        pb.Objective(name=name, value=output, scale=pb.Scale(kind=scale)) for name, output in zip(objectives.names, outputs, strict=True)
    ]
    return pb.Reward(value=value, scale=pb.Scale(kind=scale), objectives=parts)


def _finite(value: float) -> bool:
    # As float32, which is what travels.
    return abs(value) < 3.4e38
