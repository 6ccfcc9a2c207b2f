"""FastAPI with a micro-batching queue: each of BENCH_WORKERS threads takes what waits, up to BENCH_BATCH items, and scores it.

Runs in the peers' environment: python fastapi_server.py PORT
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from padded import PaddedScorer, limit_threads
from pydantic import BaseModel

BATCH = int(os.environ["BENCH_BATCH"])


class Request(BaseModel):
    """Token ids of some sequences."""

    ids: list[list[int]]


class Reply(BaseModel):
    """Their scores, in order."""

    scores: list[float]


Waiting = tuple[list[list[int]], "asyncio.Future[list[float]]"]


async def work(queue: "asyncio.Queue[Waiting]", scorer: PaddedScorer) -> None:
    """Score what waits, forever, in a thread of its own."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, initializer=limit_threads) as thread:
        while True:
            taken = [await queue.get()]
            while not queue.empty() and sum(len(ids) for ids, _ in taken) < BATCH:
                taken.append(queue.get_nowait())
            try:
                values = await loop.run_in_executor(thread, scorer, [sequence for ids, _ in taken for sequence in ids])
            except Exception as error:  # noqa: BLE001 - the callers are told, the server goes on
                for _, future in taken:
                    future.set_exception(error)
                continue
            start = 0
            for ids, future in taken:
                if not future.cancelled():
                    future.set_result(values[start : start + len(ids)])
                start += len(ids)


queue: "asyncio.Queue[Waiting]" = asyncio.Queue()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request."""
    scorer = PaddedScorer()
    tasks = [asyncio.create_task(work(queue, scorer)) for _ in range(int(os.environ["BENCH_WORKERS"]))]
    yield
    for task in tasks:
        task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers once the model is loaded."""
    return {"status": "ok"}


@app.post("/score")
async def score(request: Request) -> Reply:
    """Wait for a place in a batch."""
    future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
    queue.put_nowait((request.ids, future))
    return Reply(scores=await future)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", loop="uvloop")
