"""Opens a model with the engine that the configuration names."""

from __future__ import annotations

from collections.abc import Iterable

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.interface import Ability, ServedModel
from rewardmesh.engine.loading import Kind, LoadError, load_model


def open_model(
    config: ModelServerConfig, kind: Kind, ability: Ability, *, path: str, version: int, name: str = "", extras: Iterable[str] = ()
) -> ServedModel:
    """One version of a model, ready to be asked (slow: call it off the event loop).

    Args:
        kind: what head the model has.
        ability: what the service cannot do without.
        path: model directory or hub name; engines that compute elsewhere read the tokenizer and the config from it.
        name: by which clients call it; empty for the configured one.
        extras: whatever else its scores depend on (template, rubric), for the fingerprint.

    Raises:
        LoadError: it cannot be opened, or its engine lacks the ability.
    """
    name = name or config.name
    if config.engine != "transformers":
        raise LoadError(f"engine: {config.engine!r} is not there yet")
    model: ServedModel = load_model(
        path, kind, name=name, version=version, device=config.device, dtype=config.dtype, extras=extras, pack=ability != "sample"
    )
    if ability not in model.abilities:
        offers = ", ".join(sorted(model.abilities)) or "nothing"
        model.close()
        raise LoadError(f"{path}: the {model.engine} engine of this model offers {offers}, this service needs {ability}")
    return model
