"""Preference directions: a unit vector over objectives that a prompt asks for, and the reward along it.

Wang et al. 2024, "Arithmetic Control of LLMs for Diverse User Preferences: Directional Preference Alignment" (arXiv 2402.18571).
The direction travels in a group's tags ("direction:NAME" = weight), written when its prompt is conditioned and read when it is credited.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rewardmesh.trainer.credit.objectives import component_values
from rewardmesh.trainer.samples import Group

TAG = "direction:"


def sample_direction(rng: np.random.Generator, objectives: Sequence[str], both_signs: Collection[str] = ()) -> dict[str, float]:
    """A unit vector over `objectives`, uniform on the part of the sphere where only those in `both_signs` may be negative."""
    drawn = rng.standard_normal(len(objectives))
    drawn /= np.linalg.norm(drawn)
    return {name: float(value if name in both_signs else abs(value)) for name, value in zip(objectives, drawn, strict=True)}


def direction_tags(direction: Mapping[str, float]) -> dict[str, str]:
    """The tags that carry a direction; a weight survives the way there and back to the bit."""
    return {f"{TAG}{name}": repr(weight) for name, weight in direction.items()}


def direction_of(tags: Mapping[str, str]) -> dict[str, float]:
    """The direction in `tags`; empty where there is none. ValueError for a weight that is no number."""
    return {name.removeprefix(TAG): float(weight) for name, weight in tags.items() if name.startswith(TAG)}


def check_template(template: str) -> None:
    """ValueError unless `template` holds {direction} and {prompt}."""
    for field in ("{direction}", "{prompt}"):
        if field not in template:
            raise ValueError(f"template must hold {field}")


def conditioned_messages(messages: Sequence[tuple[str, str]], direction: Mapping[str, float], template: str) -> tuple[tuple[str, str], ...]:
    """`messages` with the direction said in the last user message.

    `template` holds {direction}, which becomes "NAME=0.80, NAME=0.60", and {prompt}, the message. ValueError where one is missing or
    there is no user message.
    """
    check_template(template)
    place = max((index for index, (role, _) in enumerate(messages) if role == "user"), default=None)
    if place is None:
        raise ValueError("messages must hold a user message")
    said = ", ".join(f"{name}={weight:.2f}" for name, weight in direction.items())
    before, after = template.split("{prompt}", 1)
    text = before.replace("{direction}", said) + messages[place][1] + after.replace("{direction}", said)
    return (*messages[:place], ("user", text), *messages[place + 1 :])


def directional_rewards(group: Group, indices: Sequence[int], direction: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """float64[k]: the component values of the rollouts at `indices` along `direction`; NaN where one with weight is absent."""
    names = [name for name, weight in direction.items() if weight != 0]
    weights = np.array([direction[name] for name in names])
    return np.asarray(component_values(group, indices, names) @ weights, dtype=np.float64)
