"""Several policies on one base: LoRA adapters (Hu et al. 2021, arXiv 2106.09685) over weights that are in memory once.

An adapter adds scale * B A x to the output of some linear layers of the base. The layers of all adapters are injected into the one
transformers model by peft, and a forward pass runs with exactly one of them active on its thread, or with none for the base itself. The
packed forward is the base's: adapters change linear layers, never the attention between tokens. What would change more than hidden
linear layers (a trained head or embedding, biases, prompt tuning) is refused when it is loaded; merge such an adapter into the weights.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewardmesh.engine.forward import use_torch
from rewardmesh.engine.interface import Pair
from rewardmesh.engine.loading import MANIFEST, LoadedModel, LoadError, check_manifest, fingerprint
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.prefix_cache import PrefixCache
from rewardmesh.engine.sampling import Sampled, SamplingOptions

if TYPE_CHECKING:  # peft takes a while to import: only servers with adapters do
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

_PREFIX = "base_model.model."


class SharedWeights:
    """A transformers model with the adapters injected into it.

    Threads compute side by side, each with the adapter of its own choice. Loading an adapter and computing exclude each other, so that
    no forward pass meets a half-injected one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._gate = _Gate()
        self._chosen = _Chosen()
        self._loaded = 0
        self._retired: deque[str] = deque()

    @contextmanager
    def using(self, adapter: str) -> Iterator[None]:
        """Compute on this thread with one adapter, "" for none; not to be nested. Switching costs nothing."""
        if self._retired:
            with self._gate.changing():
                while self._retired:
                    self._remove(self._retired.popleft())
        with self._gate.computing():
            self._chosen.choose(adapter)
            try:
                yield
            finally:
                self._chosen.choose("")

    def add(self, directory: Path) -> str:
        """Inject the adapter of a directory; returns the name by which `using` takes it.

        Raises:
            LoadError: it cannot be read, or does not fit the base.
        """
        config, tensors = _read(directory)
        with self._gate.changing():
            problem = _misfit(self.model, tensors)
            if problem:
                raise LoadError(f"{directory}: {problem}")
            self._loaded += 1
            name = f"adapter-{self._loaded}"
            try:
                missing = self._inject(name, config, tensors)
            except Exception as error:  # peft raises whatever a config that contradicts the weights leads it to
                self._remove(name)
                raise LoadError(f"{directory}: cannot be put on the base: {type(error).__name__}: {error}") from error
            if missing:
                self._remove(name)
                raise LoadError(f"{directory}: the weights lack {len(missing)} tensors, for example {missing[0]}")
        return name

    def retire(self, adapter: str) -> None:
        """Forget an adapter before the next computation; called when its last user has let go, on any thread."""
        self._retired.append(adapter)

    def _inject(self, name: str, config: LoraConfig, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Add the layers and fill them; the tensors that the weights do not have."""
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        try:
            inject_adapter_in_model(config, self.model, name)
            result: Any = set_peft_model_state_dict(self.model, dict(tensors), adapter_name=name)
        finally:
            # peft's note to itself about the last adapter; it would take the next one for a mistake.
            self.model.__dict__.pop("peft_config", None)
        self.model.eval()
        self.model.requires_grad_(False)
        self._layers()
        return [key for key in result.missing_keys if f".{name}." in key]

    def _layers(self) -> list[LoraLayer]:
        """The layers that adapters change; all of them ask `_chosen` which one is active."""
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.set_adapter(self._chosen, inference_mode=True)
        return layers

    def _remove(self, adapter: str) -> None:
        for layer in self._layers():
            layer.delete_adapter(adapter)


class _Chosen(list[str]):
    """The active adapter of the thread that looks, as the list that peft's layers go through; empty for none."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def choose(self, adapter: str) -> None:
        """From now on, on this thread."""
        self._local.adapters = [adapter] if adapter else []

    def __iter__(self) -> Iterator[str]:
        return iter(getattr(self._local, "adapters", ()))

    def __contains__(self, adapter: object) -> bool:
        return adapter in getattr(self._local, "adapters", ())

    def __len__(self) -> int:
        return len(getattr(self._local, "adapters", ()))


class _Gate:
    """Many compute at a time, or one changes the model; who wants to change it goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = 0
        self._changing = False

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._changing)
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._changing)
            self._changing = True
            self._changed.wait_for(lambda: not self._computing)
        try:
            yield
        finally:
            with self._changed:
                self._changing = False
                self._changed.notify_all()


@dataclass(frozen=True, eq=False)
class AdaptedModel(LoadedModel):
    """A version of the base, or of one adapter on it: the weights of all of them are the same object.

    Attributes:
        shared: the weights.
        adapter: which adapter answers; "" for the base alone.
    """

    shared: SharedWeights = field(kw_only=True)
    adapter: str = field(kw_only=True, default="")

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """See `ServedModel`."""
        with self.shared.using(self.adapter):
            return super().scores(sequences)

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """See `ServedModel`."""
        with self.shared.using(self.adapter):
            return super().token_statistics(pairs, temperature=temperature, extras=extras, top_k=top_k)

    def label_log_probs(self, questions: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
        """See `ServedModel`."""
        with self.shared.using(self.adapter):
            return super().label_log_probs(questions)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        emit: Callable[[Sampled], None],
        *,
        row_keys: Sequence[str],
        ends: Callable[[list[int]], bool] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """See `ServedModel`."""
        with self.shared.using(self.adapter):
            super().sample(prompts, options, emit, row_keys=row_keys, ends=ends, cancelled=cancelled)


def share(base: LoadedModel) -> AdaptedModel:
    """The base as a model that adapters can be opened on; use it in the place of `base` from then on."""
    use_torch(base.model)
    return _adapted(base, SharedWeights(base.model), "", name=base.name, version=base.version, identity=base.fingerprint)


def open_adapter(base: AdaptedModel, path: str | Path, *, name: str, version: int) -> AdaptedModel:
    """A version of a named adapter on the base's weights; its memory is freed when the last reference to it goes.

    Raises:
        LoadError: no LoRA adapter (peft's save_pretrained), torn, or one that does not fit the base.
    """
    directory = Path(path)
    if (directory / MANIFEST).exists():
        check_manifest(directory)
    identity = fingerprint(directory, [base.fingerprint])
    adapter = base.shared.add(directory)
    model = _adapted(base, base.shared, adapter, name=name, version=version, identity=identity)
    weakref.finalize(model, base.shared.retire, adapter)
    return model


def _adapted(base: LoadedModel, shared: SharedWeights, adapter: str, *, name: str, version: int, identity: str) -> AdaptedModel:
    # Keys and values depend on the adapter: each has a cache of prefixes of its own.
    prefixes = None if base.prefixes is None else PrefixCache(base.prefixes.limit_bytes)
    weights = (base.model, base.tokenizer, base.device, base.packed, base.reason, prefixes)
    why = "adapters change the layers of a base"
    return AdaptedModel(name, version, identity, *weights, shared=shared, adapter=adapter, computed_by_reason=why)


def _read(directory: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Config and tensors of an adapter, keyed by the base's own module names."""
    from peft import LoraConfig, PeftConfig, load_peft_weights

    if not (directory / "adapter_config.json").is_file():
        raise LoadError(f"{directory}: has no adapter_config.json; give the directory of a LoRA adapter (peft's save_pretrained)")
    try:
        config = PeftConfig.from_pretrained(str(directory))
        tensors = load_peft_weights(str(directory), device="cpu")
    except Exception as error:  # whatever a corrupt file leads peft and safetensors to
        raise LoadError(f"{directory}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(config, LoraConfig):
        raise LoadError(f"{directory}: is a {config.peft_type} adapter; only LoRA adapters share a base")
    trained = {
        "modules_to_save": config.modules_to_save,
        "trainable_token_indices": config.trainable_token_indices,
        "target_parameters": config.target_parameters,
        "layer_replication": config.layer_replication,
        "bias": config.bias != "none",
    }
    for option, value in trained.items():
        if value:
            raise LoadError(f"{directory}: {option} is set, so that it changes more than hidden linear layers; merge it into the weights")
    return config, {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}


def _misfit(model: Any, tensors: Mapping[str, torch.Tensor]) -> str:
    """Why the tensors do not fit the base; empty when they do. Looks only, so that a wrong adapter never touches the base."""
    if not tensors:
        return "holds no tensors"
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for key, tensor in tensors.items():
        path, found, part = key.partition(".lora_")
        try:
            layer = model.get_submodule(path) if found else None
        except AttributeError:
            layer = None
        if layer is None:
            return f"the base has no layer for {key}"
        if layer in ends:
            return f"{path} is the model's embedding or head; merge the adapter into the weights"
        if not hasattr(layer, "in_features"):
            return f"{path} is a {type(layer).__name__}, no linear layer"
        if part == "A.weight" and tensor.shape[1] != layer.in_features:
            return f"{key} takes {tensor.shape[1]} features, the base's layer {layer.in_features}"
        if part == "B.weight" and tensor.shape[0] != layer.out_features:
            return f"{key} gives {tensor.shape[0]} features, the base's layer {layer.out_features}"
    return ""
