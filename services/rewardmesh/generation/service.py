"""GenerationService: samples completions and streams each as it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from rewardmesh.client.arrays import pack_floats, pack_ints
from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.model_service import SERVICE as MODEL_SERVICE
from rewardmesh.engine.model_service import ModelServicer
from rewardmesh.engine.opening import open_model
from rewardmesh.engine.sampling import Sampled, SamplingOptions
from rewardmesh.engine.versions import ModelStore, model_ref
from rewardmesh.generation.config import GenerationConfig
from rewardmesh.generation.request import sampling_options, tokenise
from rewardmesh.serving import Server, metrics
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import ItemsLostError, invalid_argument, overloaded
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import generation_service_pb2 as api
from rewardmesh.v1 import generation_service_pb2_grpc as rpc
from rewardmesh.v1 import model_service_pb2, model_service_pb2_grpc

SERVICE = "rewardmesh.v1.GenerationService"
log = get_logger(__name__)

_FINISH = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


class GenerationServicer(rpc.GenerationServiceServicer):
    """Samples from the active version of one policy; calls are served one after the other, batches of `max_rows`."""

    def __init__(self, config: GenerationConfig, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._waiting_rows = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generation-engine")

    def load(self) -> tuple[int, float]:
        """Tokens that waiting completions may take at most, and no estimate of the wait."""
        return self._waiting_rows * self._config.default_max_tokens, 0.0

    async def Generate(self, request: api.GenerateRequest, context: CallContext) -> AsyncIterator[api.GenerateResponse]:
        """See the proto."""
        require_unique_ids((prompt.id for prompt in request.prompts), "prompts")
        model = self._store.resolve(request.policy if request.HasField("policy") else None)
        options = sampling_options(request, model.eos_ids, self._config.default_max_tokens)
        if any(not stop for stop in request.stop):
            raise invalid_argument("stop", "a stop string must not be empty")
        if options.n > self._config.max_rows:
            raise invalid_argument("n", f"{options.n} is more than this server samples side by side, {self._config.max_rows}")
        rows = len(request.prompts) * options.n
        if self._waiting_rows and self._waiting_rows + rows > self._config.max_queue_rows:
            raise overloaded(f"{self._waiting_rows} completions wait already, no room for {rows} more", 1.0)
        run = _Run(self._config, model, options, request)
        self._waiting_rows += rows
        metrics.INFLIGHT_ITEMS.labels(SERVICE).inc(rows)
        worker = asyncio.get_running_loop().run_in_executor(self._thread, run.work)
        try:
            while (reply := await run.replies.get()) is not None:
                yield reply
            await worker
        finally:
            run.cancelled.set()
            self._waiting_rows -= rows
            metrics.INFLIGHT_ITEMS.labels(SERVICE).dec(rows)

    async def close(self) -> None:
        """Let the running batch end."""
        await asyncio.to_thread(self._thread.shutdown)


class _Run:
    """One call: what the engine's thread works through, and the queue its replies arrive in."""

    def __init__(self, config: GenerationConfig, model: ServedModel, options: SamplingOptions, request: api.GenerateRequest) -> None:
        self.replies: asyncio.Queue[api.GenerateResponse | None] = asyncio.Queue()
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._model = model
        self._options = options
        self._request = request
        self._arrived = time.monotonic()
        self._prompts: list[tuple[api.GenerationPrompt, list[int]]] = []

    def work(self) -> None:
        """On the engine's thread: sample everything; always ends with a None reply, also when the engine fails."""
        try:
            self._sample()
        finally:
            self._send(None)

    def _sample(self) -> None:
        vocabulary = self._model.vocabulary
        for prompt in self._request.prompts:
            ids = tokenise(prompt, self._model.tokenizer, vocabulary, self._model.max_tokens - 1)
            if isinstance(ids, pb.Absence):
                for index in range(self._options.n):
                    self._lost(prompt.id, index, ids, tokens=0)
            else:
                self._prompts.append((prompt, ids))
        per_batch = max(self._config.max_rows // self._options.n, 1)
        for start in range(0, len(self._prompts), per_batch):
            if self.cancelled.is_set():
                return
            self._sample_batch(self._prompts[start : start + per_batch])

    def _sample_batch(self, batch: list[tuple[api.GenerationPrompt, list[int]]]) -> None:
        began = time.monotonic()
        metrics.QUEUE_SECONDS.labels(SERVICE).observe(began - self._arrived)
        options = self._options
        answered: set[tuple[int, int]] = set()

        def emit(sampled: Sampled) -> None:
            answered.add((sampled.prompt, sampled.index))
            prompt, ids = batch[sampled.prompt]
            self._reply(prompt.id, sampled, ids, time.monotonic() - began, began - self._arrived)

        try:
            self._model.sample(
                [ids for _, ids in batch],
                options,
                emit,
                row_keys=[prompt.id for prompt, _ in batch],
                ends=self._stop_rule(),
                cancelled=self.cancelled,
            )
        except Exception as error:  # an engine may fail in any way; each completion then says so
            if isinstance(error, ItemsLostError):  # it knows why, and has answered the others
                log.warning("the engine lost completions", error=str(error))
                lost = error.absences[0]
            else:
                log.exception("generation failed")
                lost = absence(pb.ABSENCE_REASON_INFRASTRUCTURE, f"the engine failed: {type(error).__name__}: {error}")
            for number, (prompt, ids) in enumerate(batch):
                for index in range(options.n):
                    if (number, index) not in answered:
                        self._lost(prompt.id, index, lost, len(ids))
        metrics.COMPUTE_SECONDS.labels(SERVICE).observe(time.monotonic() - began)
        metrics.BATCH_ITEMS.labels(SERVICE).observe(len(batch) * options.n)

    def _stop_rule(self) -> Callable[[list[int]], bool] | None:
        stops = list(self._request.stop)
        if not stops:
            return None
        decode = self._model.tokenizer.decode
        return lambda ids: any(stop in decode(ids, skip_special_tokens=True) for stop in stops)

    def _reply(self, prompt_id: str, sampled: Sampled, prompt: list[int], compute: float, queued: float) -> None:
        if sampled.finish == "aborted":
            return  # nobody listens any more
        if sampled.finish == "non_finite":
            self._lost(prompt_id, sampled.index, absence(pb.ABSENCE_REASON_NON_FINITE, "the policy computed NaN or infinity"), len(prompt))
            return
        text = self._model.tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
        for stop in self._request.stop:
            text = text.split(stop, 1)[0]
        completion = pb.Completion(
            text=text,
            token_ids=pack_ints(sampled.token_ids),
            finish_reason=_FINISH[sampled.finish],
            policy=model_ref(self._model),
            sampling_log_probs=pack_floats(sampled.log_probs),
        )
        reply = api.GenerateResponse(
            prompt_id=prompt_id,
            index=sampled.index,
            completion=completion,
            provenance=self._provenance(len(prompt) + len(sampled.token_ids), compute, queued),
        )
        if sampled.index == 0:
            reply.prompt_token_ids.CopyFrom(pack_ints(prompt))
        metrics.count_outcome(SERVICE, self._model.name, None)
        self._send(reply)

    def _lost(self, prompt_id: str, index: int, why: pb.Absence, tokens: int) -> None:
        metrics.count_outcome(SERVICE, self._model.name, why)
        provenance = self._provenance(tokens, 0.0, time.monotonic() - self._arrived)
        self._send(api.GenerateResponse(prompt_id=prompt_id, index=index, absence=why, provenance=provenance))

    def _provenance(self, tokens: int, compute: float, queued: float) -> pb.Provenance:
        return pb.Provenance(
            service=SERVICE,
            model=model_ref(self._model),
            replica=self._config.replica,
            queue_seconds=queued,
            compute_seconds=compute,
            tokens_read=tokens,
            tokens_computed=tokens,
        )

    def _send(self, reply: api.GenerateResponse | None) -> None:
        self._loop.call_soon_threadsafe(self.replies.put_nowait, reply)


async def create_server(config: GenerationConfig) -> Server:
    """Load the policy and build the server; raises LoadError when it cannot be served."""
    if config.threads:
        torch.set_num_threads(config.threads)

    def load(path: str, version: int) -> ServedModel:
        return open_model(config, "causal", "sample", path=path, version=version)

    store = ModelStore(SERVICE, await asyncio.to_thread(load, config.model, 1), load)
    servicer = GenerationServicer(config, store)
    capabilities = model_service_pb2.Capabilities(outputs=["completions"], overlength=model_service_pb2.OVERLENGTH_POLICY_REFUSE)
    server = Server(config, "generation", load=servicer.load)
    server.add_service(SERVICE, rpc.add_GenerationServiceServicer_to_server, servicer)
    server.add_service(MODEL_SERVICE, model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer([store], capabilities))
    server.on_stop(servicer.close)
    return server
