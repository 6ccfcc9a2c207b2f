"""grpc's interfaces as bases of ours. The stubs call them generic; at run time not all of them are."""

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc import aio

if TYPE_CHECKING:
    Future: TypeAlias = grpc.Future[Any]
    UnaryUnary: TypeAlias = grpc.UnaryUnaryMultiCallable[Any, Any]
    UnaryStream: TypeAlias = grpc.UnaryStreamMultiCallable[Any, Any]
    StreamUnary: TypeAlias = grpc.StreamUnaryMultiCallable[Any, Any]
    StreamStream: TypeAlias = grpc.StreamStreamMultiCallable[Any, Any]
    AioUnaryUnary: TypeAlias = aio.UnaryUnaryMultiCallable[Any, Any]
    AioUnaryStream: TypeAlias = aio.UnaryStreamMultiCallable[Any, Any]
    AioStreamUnary: TypeAlias = aio.StreamUnaryMultiCallable[Any, Any]
    AioStreamStream: TypeAlias = aio.StreamStreamMultiCallable[Any, Any]
    AioUnaryCall: TypeAlias = aio.UnaryUnaryCall[Any, Any]
else:
    Future = grpc.Future
    UnaryUnary = grpc.UnaryUnaryMultiCallable
    UnaryStream = grpc.UnaryStreamMultiCallable
    StreamUnary = grpc.StreamUnaryMultiCallable
    StreamStream = grpc.StreamStreamMultiCallable
    AioUnaryUnary = aio.UnaryUnaryMultiCallable
    AioUnaryStream = aio.UnaryStreamMultiCallable
    AioStreamUnary = aio.StreamUnaryMultiCallable
    AioStreamStream = aio.StreamStreamMultiCallable
    AioUnaryCall = aio.UnaryUnaryCall

__all__ = [
    "AioStreamStream",
    "AioStreamUnary",
    "AioUnaryCall",
    "AioUnaryStream",
    "AioUnaryUnary",
    "Future",
    "StreamStream",
    "StreamUnary",
    "UnaryStream",
    "UnaryUnary",
]
