"""Streams without their transport: what is sent for each item, which item a reply answers, and what the unanswered ones become."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rewardmesh.client._batches import absent_evaluations, absent_score, broken_promise, score_options
from rewardmesh.client.messages import Model
from rewardmesh.client.results import Absence, Evaluations, Generation, Score
from rewardmesh.v1.common_pb2 import Sample
from rewardmesh.v1.generation_service_pb2 import GenerateRequest, GenerateResponse
from rewardmesh.v1.mesh_service_pb2 import EvaluateOptions, StreamEvaluateRequest, StreamEvaluateResponse
from rewardmesh.v1.reward_service_pb2 import ScoreOptions, StreamScoresRequest, StreamScoresResponse

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")


@dataclass
class Stream(Generic[T, Q, A, R]):
    """One stream: items T go out as requests Q, replies A come back as results R in any order, exactly one an item."""

    first: Q
    request: Callable[[T], Q]
    ids: Callable[[T], list[str]]
    answers: Callable[[A], tuple[list[str], R]]
    absent: Callable[[T, Absence], R]
    _seen: set[str] = field(default_factory=set)
    _pending: dict[str, T] = field(default_factory=dict)

    def send(self, item: T) -> Q:
        """Note an item as sent; an empty or repeated id raises ValueError."""
        for id in self.ids(item):
            if not id:
                raise ValueError("a sample of the stream has no id")
            if id in self._seen:
                raise ValueError(f"duplicate sample id {id!r}")
            self._seen.add(id)
        self._pending[self.ids(item)[0]] = item
        return self.request(item)

    @property
    def waiting(self) -> int:
        """Items that are sent and not answered."""
        return len(self._pending)

    def unanswered(self) -> list[T]:
        """Those items, in the order they were sent."""
        return list(self._pending.values())

    def receive(self, reply: A) -> R:
        """Read a reply; one that answers nothing that was sent raises CallFailed."""
        try:
            ids, result = self.answers(reply)
        except ValueError as error:
            raise broken_promise(str(error)) from error
        item = self._pending.pop(ids[0], None) if ids else None
        if item is None or self.ids(item) != ids:
            raise broken_promise(f"reply for {ids} matches nothing that waits for one")
        return result

    def end(self) -> None:
        """The server ended the stream well: every item must have been answered."""
        if self._pending:
            raise broken_promise(f"stream ended with {len(self._pending)} items unanswered, first {next(iter(self._pending))!r}")

    def give_up(self, absence: Absence) -> list[R]:
        """What the items still waiting become."""
        waiting = list(self._pending.values())
        self._pending.clear()
        return [self.absent(item, absence) for item in waiting]


def score_stream(options: ScoreOptions | None, model: Model) -> Stream[Sample, StreamScoresRequest, StreamScoresResponse, Score]:
    def answers(reply: StreamScoresResponse) -> tuple[list[str], Score]:
        score = Score.from_proto(reply.outcome)
        return [score.sample_id], score

    return Stream(
        first=StreamScoresRequest(options=score_options(options, model)),
        request=lambda item: StreamScoresRequest(samples=[item]),
        ids=lambda item: [item.id],
        answers=answers,
        absent=absent_score,
    )


def evaluate_stream(
    options: EvaluateOptions,
) -> Stream[Sequence[Sample], StreamEvaluateRequest, StreamEvaluateResponse, Evaluations]:
    def request(group: Sequence[Sample]) -> StreamEvaluateRequest:
        if len(group) > 1 and (len({item.group_id for item in group}) > 1 or not group[0].group_id):
            raise ValueError(f"the samples of a group share one group_id, not {sorted({item.group_id for item in group})}")
        return StreamEvaluateRequest(samples=group)

    def ids(group: Sequence[Sample]) -> list[str]:
        if not group:
            raise ValueError("a group of the stream has no samples")
        return [item.id for item in group]

    def answers(reply: StreamEvaluateResponse) -> tuple[list[str], Evaluations]:
        evaluations = Evaluations.from_proto(reply)
        return [evaluation.sample_id for evaluation in evaluations.evaluations], evaluations

    return Stream(
        first=StreamEvaluateRequest(options=options),
        request=request,
        ids=ids,
        answers=answers,
        absent=absent_evaluations,
    )


class Generating:
    """A running `generate` call: reads replies and knows which completions have not come."""

    def __init__(self, request: GenerateRequest) -> None:
        self._begun = False
        seen: set[str] = set()
        for prompt in request.prompts:
            if not prompt.id or prompt.id in seen:
                raise ValueError(f"duplicate prompt id {prompt.id!r}" if prompt.id else "a prompt has no id")
            seen.add(prompt.id)
        self._missing = dict.fromkeys((prompt.id, index) for prompt in request.prompts for index in range(max(1, request.n)))

    @property
    def begun(self) -> bool:
        """Whether a completion has come."""
        return self._begun

    def receive(self, reply: GenerateResponse) -> Generation:
        """Read a reply; one that was not asked for raises CallFailed."""
        try:
            generation = Generation.from_proto(reply)
        except ValueError as error:
            raise broken_promise(str(error)) from error
        if (reply.prompt_id, reply.index) not in self._missing:
            raise broken_promise(f"completion {reply.index} of {reply.prompt_id!r} was not asked for, or came twice")
        del self._missing[reply.prompt_id, reply.index]
        self._begun = True
        return generation

    def end(self) -> None:
        """The server ended the stream well: every completion must have come."""
        if self._missing:
            raise broken_promise(f"stream ended with {len(self._missing)} completions missing, first {next(iter(self._missing))}")

    def give_up(self, absence: Absence) -> Iterable[Generation]:
        """What the completions that have not come become."""
        missing, self._missing = self._missing, {}
        for id, index in missing:
            yield Generation.from_proto(GenerateResponse(prompt_id=id, index=index, absence=absence.to_proto()))
