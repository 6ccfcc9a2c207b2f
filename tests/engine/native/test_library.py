"""The library is compiled once, found again, and whatever stands in the way leaves a server that computes by torch and says why."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rewardmesh.engine.loading import LoadedModel, load_model
from rewardmesh.engine.native import NativeError, cores, library
from rewardmesh.engine.native import decoder as decoders
from rewardmesh.engine.native.cores import threads_of

ModelMaker = Callable[..., Path]


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache directory, and no library in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.library.cache_clear()
    yield tmp_path / "rewardmesh"
    library.library.cache_clear()


def compilers(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: path or None)


def test_it_is_compiled_once_and_found_again(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.library()
    [compiled] = cache_home.iterdir()
    compilers(monkeypatch, "")
    library.library.cache_clear()
    assert library.library()._name == str(compiled)


def test_a_torn_library_is_compiled_anew(cache_home: Path) -> None:
    compiled = cache_home / library._name(library._flags())
    cache_home.mkdir()
    compiled.write_bytes(b"no library")
    assert library.library().rewardmesh_lanes() in (4, 8, 16)
    assert compiled.stat().st_size > 10_000


def test_without_a_compiler_torch_computes_and_says_why(cache_home: Path, monkeypatch: pytest.MonkeyPatch, reward_model: Path) -> None:
    compilers(monkeypatch, "")
    loaded = load_model(reward_model, "classification", name="m", version=1)
    assert loaded.packed
    assert loaded.computed_by == "torch"
    assert "apt-get install g++" in loaded.computed_by_reason
    assert len(loaded.scores([[5, 6, 7]])) == 1


def test_a_compiler_that_fails_is_quoted(cache_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    compilers(monkeypatch, str(broken))
    with pytest.raises(NativeError, match="no such flag"):
        library.library()
    assert not list(cache_home.iterdir())


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    library.library.cache_clear()
    try:
        assert library.library().rewardmesh_lanes() in (4, 8, 16)
    finally:
        library.library.cache_clear()


def test_a_full_disk_leaves_the_model_to_torch(cache_home: Path, monkeypatch: pytest.MonkeyPatch, reward_model: Path) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    loaded = load_model(reward_model, "classification", name="m", version=1)
    assert loaded.computed_by == "torch"
    assert "No space left" in loaded.computed_by_reason


def test_an_installation_may_bring_it_along(cache_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    brought = tmp_path / "compiled"
    monkeypatch.setattr(library, "BROUGHT_ALONG", brought)
    paths = library.bring_along()
    assert len(paths) == len(set(paths)) == 3
    compilers(monkeypatch, "")
    assert Path(library.library()._name).parent == brought
    assert not cache_home.exists()


def test_processes_that_start_together_do_not_harm_each_other(tmp_path: Path) -> None:
    program = "from rewardmesh.engine.native.library import library; print(library().rewardmesh_lanes())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in running} <= {"4", "8", "16"}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(list((tmp_path / "rewardmesh").iterdir())) == 1


@pytest.mark.parametrize(
    ("architecture", "changes", "why"),
    [
        ("gpt_oss", {"head_dim": 8, "num_local_experts": 4}, "architecture 'gpt_oss' is not one of"),
        ("qwen2", {"hidden_act": "mish"}, "activation 'mish'"),
        ("bloom", {}, "AttentionInterface"),
    ],
)
def test_models_it_does_not_know_are_left_to_torch(make_model: ModelMaker, architecture: str, changes: dict[str, object], why: str) -> None:
    loaded = load_model(make_model("causal", architecture, **changes), "causal", name="m", version=1)
    assert loaded.computed_by == "torch"
    assert why in loaded.computed_by_reason


def test_other_types_are_left_to_torch(reward_model: Path) -> None:
    loaded = load_model(reward_model, "classification", name="m", version=1, dtype="bfloat16")
    assert loaded.computed_by == "torch"
    assert "bfloat16" in loaded.computed_by_reason


def test_a_model_may_be_kept_from_it(reward_model: Path) -> None:
    loaded = load_model(reward_model, "classification", name="m", version=1, native=False)
    assert (loaded.computed_by, loaded.computed_by_reason) == ("torch", "native: false")


def test_weights_that_would_not_fit_twice_are_not_copied(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "available_bytes", lambda: 50_000)
    loaded = load_model(reward_model, "classification", name="m", version=1)
    assert loaded.computed_by == "torch"
    assert "a second time" in loaded.computed_by_reason


def test_states_that_differ_are_refused(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that only looks like one it knows is found out by its answers."""
    right = decoders.NativeDecoder.states
    monkeypatch.setattr(decoders.NativeDecoder, "states", lambda self, plan: right(self, plan) + 1e-2)
    loaded = load_model(reward_model, "classification", name="m", version=1)
    assert loaded.computed_by == "torch"
    assert "differ by" in loaded.computed_by_reason


def test_a_batch_that_does_not_fit_is_a_memory_error(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: LoadedModel = load_model(reward_model, "classification", name="m", version=1)
    native = loaded.model.native_decoder

    class Failing:
        """A library without memory."""

        def rewardmesh_forward(self, decoder: object, batch: object) -> int:
            return 1

    monkeypatch.setattr(native, "_library", Failing())
    with pytest.raises(MemoryError, match="batch of 3 tokens"):
        loaded.scores([[5, 6, 7]])


def test_threads_are_divided_among_what_runs() -> None:
    assert not cores._running
    with threads_of(8) as first:
        assert first.value == 8
        with threads_of(8) as second:
            assert (first.value, second.value) == (4, 4)
            with threads_of(2) as third:
                assert (first.value, second.value, third.value) == (2, 2, 1)
        assert first.value == 8
    assert not cores._running


def test_a_failure_gives_its_threads_back() -> None:
    def fail() -> None:
        with pytest.raises(ValueError, match="late"), threads_of(4):
            raise ValueError("late")

    runner = threading.Thread(target=fail)
    runner.start()
    runner.join()
    with threads_of(4) as alone:
        assert alone.value == 4


def test_the_structures_are_those_of_the_source() -> None:
    """Sizes by the compiler's own account, so that a field added on one side only is seen at once."""
    found = library.library()
    for name in ("Shape", "Layer", "Decoder", "Batch"):
        size = found.rewardmesh_size
        size.argtypes, size.restype = (ctypes.c_char_p,), ctypes.c_int64
        assert size(name.encode()) == ctypes.sizeof(getattr(library, name)), name


def test_models_may_be_read_at_the_same_time(make_model: ModelMaker) -> None:
    paths = [
        make_model("causal", name, **changes) for name, changes in (("qwen2", {}), ("mistral", {"sliding_window": 7}), ("phi3", {}))
    ] * 2
    with ThreadPoolExecutor(len(paths)) as pool:
        loaded = list(pool.map(lambda path: load_model(path, "causal", name="m", version=1), paths))
    assert [model.computed_by_reason for model in loaded] == [""] * len(paths)
    assert [model.model.native_decoder._weights._layers[0].window for model in loaded][:2] == [0, 7]


def test_adapters_leave_their_base_to_torch(make_model: ModelMaker) -> None:
    from rewardmesh.engine.adapters import share

    base = load_model(make_model("causal"), "causal", name="base", version=1)
    assert base.computed_by == "native"
    shared = share(base)
    assert shared.computed_by == "torch"
    assert "adapters" in shared.computed_by_reason
    assert torch.isfinite(shared.token_statistics([([5, 6], [7])], temperature=1.0, extras=(), top_k=0)[0][0].log_probs).all()
