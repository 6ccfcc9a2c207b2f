"""When a stream breaks: whether what is unanswered goes to another replica, and after how long."""

import random
import time

import grpc

from rewardmesh.client.balancing import AioBalancedChannel, BalancedChannel
from rewardmesh.client.errors import CallFailed

_RESUMABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


class Resumes:
    """The attempts of one stream: each after the first draws on the channel's budget, as a retry does.

    deadline: of the whole stream, on the monotonic clock; None for no limit.
    """

    def __init__(self, channel: BalancedChannel | AioBalancedChannel, deadline: float | None) -> None:
        self._channel = channel
        self._deadline = deadline
        self._failures_in_row = 0

    def wait_s(self, failure: CallFailed, progressed: bool) -> float | None:
        """Seconds to wait before the stream is taken up again; None: give up. progressed: it answered something before it broke."""
        options = self._channel.options
        self._failures_in_row = 1 if progressed else self._failures_in_row + 1
        if failure.code not in _RESUMABLE or not failure.transient or self._failures_in_row >= options.max_attempts:
            return None
        wait_s = min(options.max_backoff_s, options.initial_backoff_s * 2.0 ** (self._failures_in_row - 1)) * random.uniform(0.5, 1.5)
        wait_s = max(wait_s, failure.retry_after_s or 0.0)
        if self._deadline is not None and time.monotonic() + wait_s >= self._deadline:
            return None
        return wait_s if self._channel.take_extra_attempt() else None
