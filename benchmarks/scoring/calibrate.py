"""Which settings suit each contender on this machine: a few are tried on the same items, and the fastest is used in all races."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks.scoring.contender import Contender, Item, Setup, reason
from benchmarks.scoring.progress import Progress


def calibrate(
    contender: Contender, setup: Setup, warm_up: Sequence[Item], items: Sequence[Item], progress: Progress
) -> list[dict[str, object]]:
    """Start the contender with each of its variants and time one pass over the items.

    Returns:
        For each variant that worked {"variant", "items_per_s"}, fastest first, and those that failed with "failed" at the end.
    """
    found: list[dict[str, object]] = []
    for variant in contender.variants:
        with progress.step(f"calibrating {contender.title}: {_name(variant)}"):
            try:
                contender.start(setup, variant)
                contender.score(warm_up)
                began = time.perf_counter()
                contender.score(items)
                speed = len(items) / (time.perf_counter() - began)
                found.append({"variant": dict(variant), "items_per_s": speed})
                progress.say(f"{contender.title}, {_name(variant)}: {speed:.1f} items/s")
            except Exception as error:  # noqa: BLE001 - a setting that does not work is reported, and another one used
                found.append({"variant": dict(variant), "failed": reason(error)})
                progress.say(f"{contender.title}, {_name(variant)} failed: {reason(error)}")
            finally:
                contender.stop()
    return sorted(found, key=_slowness)


def best(tried: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The variant of the first entry, which is the fastest; of one that failed too, so that the race says why."""
    variant = tried[0]["variant"]
    assert isinstance(variant, dict)
    return {str(key): str(value) for key, value in variant.items()}


def _slowness(entry: Mapping[str, object]) -> float:
    speed = entry.get("items_per_s")
    return -speed if isinstance(speed, float) else 0.0


def _name(variant: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value or 'none'}" for key, value in variant.items()) or "as it is"
