"""Compiles the C++ beside this file, loads it, and mirrors its structures (layers.h).

The compiled library is kept in the user's cache directory under a hash of sources and flags: what is found there is what would be compiled.
It is written beside its place and renamed, so that processes which start together do not wait for each other and a killed one leaves
nothing that another would trust. An image without a compiler brings the library along (`python -m rewardmesh.engine.native`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
BROUGHT_ALONG = SOURCES / "compiled"
FLAGS = ("-std=gnu++17", "-O3", "-fopenmp", "-shared", "-fPIC")
LEVELS = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}
"""Flags by what torch says of the processor; what is not listed is compiled for any processor of the architecture."""
COMPILE_S = 300.0


class NativeError(Exception):
    """The native forward cannot be used here, or not for this model; says why."""


def _fields(kind: type, *names: str) -> Iterator[tuple[str, type]]:
    return ((name, kind) for name in names)


class Norm(ctypes.Structure):
    """A normalisation; without a weight there is none."""

    _fields_ = (*_fields(ctypes.c_void_p, "weight", "bias"),)


class Weights(ctypes.Structure):
    """A weight matrix in panels (products.h)."""

    _fields_ = (*_fields(ctypes.c_void_p, "panels", "bias"), *_fields(ctypes.c_int64, "inputs", "outputs"))


class Shape(ctypes.Structure):
    """Sizes and kinds of a decoder."""

    _fields_ = (
        *_fields(ctypes.c_int64, "layers", "width", "heads", "key_heads", "head_width", "rotary_width", "feed_forward"),
        *_fields(ctypes.c_int64, "normalisation", "activation", "gated", "parallel"),
        *_fields(ctypes.c_float, "epsilon", "scale", "softcap"),
    )


class Layer(ctypes.Structure):
    """What a layer computes with: its window is 0 where every token sees all before it, `rope` counts the model's rotary embeddings."""

    _fields_ = (
        *_fields(Norm, "before_attention", "query", "key", "after_attention", "before_mlp", "after_mlp"),
        *_fields(Weights, "queries", "keys_values", "output", "up", "down"),
        *_fields(ctypes.c_int64, "window", "rope"),
    )


class Decoder(ctypes.Structure):
    """A model."""

    _fields_ = (("shape", Shape), ("layers", ctypes.POINTER(Layer)), ("final", Norm))


class Batch(ctypes.Structure):
    """A packed row."""

    _fields_ = (
        *_fields(ctypes.c_int64, "rows", "segments", "queries", "distinct", "positions_end", "most_threads"),
        *_fields(ctypes.c_void_p, "threads", "states", "cosines", "sines", "positions", "queried", "examples", "kinds"),
        *_fields(ctypes.c_void_p, "starts", "offsets", "tokens"),
        *_fields(ctypes.c_void_p, "path_starts", "paths", "cached", "cached_strides", "kept"),
    )


@cache
def library() -> ctypes.CDLL:
    """The compiled library of this processor; calls into it release the interpreter's lock.

    Raises:
        NativeError: there is no compiler, or it fails.
    """
    flags = _flags()
    name = _name(flags)
    for folder in (BROUGHT_ALONG, _cache_folder()):
        if (folder / name).is_file():
            try:
                return _load(folder / name)
            except OSError:  # torn, or of another system: compiled anew, it takes the place of what was found
                continue
    try:
        return _load(_compiled(flags, name))
    except OSError as error:  # no folder can be written to, the disk is full, what was compiled cannot be loaded
        raise NativeError(f"the compiled library can be neither written nor loaded: {error}") from error


def bring_along() -> list[Path]:
    """Compile for every kind of x86-64 processor beside the sources, for an installation whose machines have no compiler."""
    BROUGHT_ALONG.mkdir(exist_ok=True)
    variants = [(*FLAGS, *flags) for flags in (*LEVELS.values(), ())]
    return [_compile(flags, BROUGHT_ALONG / _name(flags)) for flags in variants]


def _flags() -> tuple[str, ...]:
    return (*FLAGS, *LEVELS.get(torch.backends.cpu.get_cpu_capability(), ()))


def _name(flags: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((platform.machine(), flags)).encode())
    for source in sorted(SOURCES.glob("*.h")) + sorted(SOURCES.glob("*.cpp")):
        digest.update(source.read_bytes())
    return f"decoder-{digest.hexdigest()[:16]}.so"


def _cache_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "rewardmesh"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / "no-home"


def _compiled(flags: tuple[str, ...], name: str) -> Path:
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _compile(flags, folder / name)
    except OSError:
        # A read-only root, a full disk: a folder of this process's own, which nobody else can write to.
        return _compile(flags, Path(tempfile.mkdtemp(prefix="rewardmesh-native-")) / name)


def _compile(flags: tuple[str, ...], target: Path) -> Path:
    compiler = next(
        (found for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        raise NativeError("no C++ compiler (g++) was found; on Debian: apt-get install g++")
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=target.parent) as folder:
        written = Path(folder, target.name)
        command = [compiler, *flags, str(SOURCES / "decoder.cpp"), "-o", str(written)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_S)
        except subprocess.CalledProcessError as error:
            raise NativeError(f"{compiler} failed: {error.stderr.strip()[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise NativeError(f"{compiler} took longer than {COMPILE_S:g} s") from error
        written.replace(target)
    return target


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.rewardmesh_forward.argtypes = (ctypes.POINTER(Decoder), ctypes.POINTER(Batch))
    loaded.rewardmesh_forward.restype = ctypes.c_int
    loaded.rewardmesh_multiply.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(Weights), ctypes.c_void_p)
    loaded.rewardmesh_multiply.restype = None
    loaded.rewardmesh_lanes.restype = ctypes.c_int64
    return loaded
