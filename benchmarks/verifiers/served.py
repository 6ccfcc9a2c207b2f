"""A VerifierService in a process of its own, and samples for it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import uvloop


@contextmanager
def served(**fields: Any) -> Iterator[str]:
    """Address of a server with this configuration.

    Raises:
        EOFError: it could not start; its own words are on stderr.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, fields))
    process.start()
    there.close()
    try:
        yield here.recv()
        here.send(None)
        process.join(30)
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _serve(pipe: Connection, fields: Mapping[str, Any]) -> None:
    from rewardmesh.serving.logs import configure_logging
    from rewardmesh.verifier import VerifierConfig, create_server

    configure_logging("verifier", level="error")

    async def main() -> None:
        server = await create_server(VerifierConfig(**{"port": 0, "drain_seconds": 5.0} | dict(fields)))
        await server.start()
        pipe.send(server.address)
        try:
            await asyncio.to_thread(pipe.recv)
        except EOFError:
            pass  # the parent has gone
        finally:
            await server.stop()

    uvloop.run(main())
