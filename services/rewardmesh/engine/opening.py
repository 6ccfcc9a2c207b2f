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
    model = _open(config, kind, ability, path=path, version=version, name=name or config.name, extras=tuple(extras))
    if ability not in model.abilities:
        offers = ", ".join(sorted(model.abilities)) or "nothing"
        model.close()
        message = f"{path}: the {model.engine} engine of this model offers {offers}, this service needs {ability}"
        raise LoadError(f"{message} ({model.reason})" if model.reason else message)
    return model


def _open(
    config: ModelServerConfig, kind: Kind, ability: Ability, *, path: str, version: int, name: str, extras: tuple[str, ...]
) -> ServedModel:
    # Each engine is imported when it is wanted: their libraries are heavy, and some are extras.
    if config.engine == "transformers":
        _refuse_unused(config)
        return load_model(
            path,
            kind,
            name=name,
            version=version,
            device=config.device,
            dtype=config.dtype,
            extras=extras,
            pack=ability != "sample",
            native=config.native,
            threads=config.threads,
            prefix_cache_bytes=config.prefix_cache_mib * 2**20,
            batch_invariant=config.batch_invariant,
        )
    if config.engine == "vllm":
        from rewardmesh.engine.vllm.local import open_local

        return open_local(config, kind, path=path, version=version, name=name, extras=extras)
    if not config.engine_address:
        raise LoadError(f"engine_address: is empty; engine {config.engine} computes at a server, name its address")
    if config.engine == "vllm-server":
        from rewardmesh.engine.vllm.server import open_server

        return open_server(config, kind, path=path, version=version, name=name, extras=extras)
    if config.engine == "openai":
        from rewardmesh.engine.openai.endpoint import open_endpoint

        return open_endpoint(config, kind, path=path, version=version, name=name, extras=extras)
    from rewardmesh.engine.triton import open_triton

    return open_triton(config, kind, path=path, version=version, name=name, extras=extras)


def _refuse_unused(config: ModelServerConfig) -> None:
    """A setting that would change nothing is a mistake."""
    for field in ("engine_address", "engine_options"):
        if getattr(config, field):
            raise LoadError(f"{field}: engine {config.engine} has no use for it")
