"""Model directories are read strictly, fingerprinted by content, and written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from rewardmesh.engine.loading import MANIFEST, LoadError, fingerprint, load_model, read_model, write_version

ModelMaker = Callable[..., Path]


@pytest.fixture
def copy(reward_model: Path, tmp_path: Path) -> Path:
    """A model directory that a test may spoil."""
    return Path(shutil.copytree(reward_model, tmp_path / "model"))


def refused(path: Path, *words: str, kind: Any = "classification") -> None:
    with pytest.raises(LoadError, match=re.escape(str(path))) as error:
        load_model(path, kind, name="tiny", version=1)
    for word in words:
        assert word in str(error.value)


def test_a_good_directory(copy: Path) -> None:
    loaded = load_model(copy, "classification", name="tiny", version=3)
    assert (loaded.name, loaded.version, loaded.max_tokens, loaded.dtype) == ("tiny", 3, 256, "float32")
    assert loaded.tokenizer("12 apples")["input_ids"]
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def test_half_precision(copy: Path) -> None:
    assert load_model(copy, "classification", name="tiny", version=1, dtype="bfloat16").dtype == "bfloat16"


def test_unknown_dtype(copy: Path) -> None:
    with pytest.raises(LoadError, match="'float8' is unknown; one of float32"):
        read_model(copy, "classification", dtype="float8")


def test_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "config.json")


def test_missing_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    refused(copy, "config.json")


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    refused(copy, "model.safetensors")


def test_missing_tokenizer(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    refused(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{ not json", "[]", "{}", '{"vocab_size": "many"}'])
def test_corrupt_text_files(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    if name == "tokenizer_config.json" and content.startswith('{"v'):
        load_model(copy, "classification", name="tiny", version=1)  # an unknown key there is harmless
    elif name == "tokenizer_config.json" and content == "{}":
        load_model(copy, "classification", name="tiny", version=1)  # tokenizer.json is enough
    else:
        refused(copy)


@pytest.mark.parametrize("keep", [0, 4, 100, -50])
def test_torn_weights(copy: Path, keep: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(copy)


def test_weights_that_are_no_safetensors(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\xff" * 4096)
    refused(copy)


def test_weights_of_another_shape(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    refused(copy)


def test_a_base_model_is_no_reward_model(copy: Path) -> None:
    AutoModel.from_pretrained(copy).save_pretrained(copy)
    refused(copy, "lack 1 tensors", "score.weight")


def test_a_causal_model_is_no_reward_model(causal_model: Path) -> None:
    refused(causal_model, "score.weight")


def test_a_missing_layer(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, "lack 1 tensors", "model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", '{"files": {"model.safetensors": "0"}}', '{"files": {"second.safetensors": "0"}}'])
def test_a_manifest_that_does_not_match(copy: Path, manifest: str) -> None:
    (copy / MANIFEST).write_text(manifest)
    refused(copy, MANIFEST if "files" not in manifest else "torn")


def test_the_fingerprint_follows_every_part(copy: Path) -> None:
    before = fingerprint(copy)
    assert before == fingerprint(copy)
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert fingerprint(copy, ["a rubric"]) != before
    assert fingerprint(copy, ["ab", "c"]) != fingerprint(copy, ["a", "bc"])
    tensors = load_file(copy / "model.safetensors")
    tensors["score.weight"].view(-1)[0] = torch.nextafter(tensors["score.weight"].view(-1)[0], torch.tensor(9.0))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    weights = fingerprint(copy)
    assert weights != before
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    assert fingerprint(copy) != weights


def test_a_fingerprint_does_not_depend_on_the_place(copy: Path, reward_model: Path) -> None:
    assert fingerprint(copy) == fingerprint(reward_model)


def test_a_written_version_can_be_read(reward_model: Path, tmp_path: Path) -> None:
    model, tokenizer = read_model(reward_model, "classification")
    target = tmp_path / "versions" / "7"
    write_version(target, model, tokenizer)
    loaded = load_model(target, "classification", name="tiny", version=7)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True))
    write_version(target, model, tokenizer)
    assert [entry.name for entry in target.parent.iterdir()] == ["7"], "nothing is left beside it"


def test_a_written_version_that_tears_is_noticed(reward_model: Path, tmp_path: Path) -> None:
    write_version(tmp_path / "1", *read_model(reward_model, "classification"))
    file = tmp_path / "1" / "config.json"
    file.write_text(file.read_text() + " ")
    refused(tmp_path / "1", "config.json", "torn")


def test_a_write_that_fails_leaves_the_old_version(reward_model: Path, tmp_path: Path) -> None:
    model, tokenizer = read_model(reward_model, "classification")
    target = tmp_path / "1"
    write_version(target, model, tokenizer)
    before = fingerprint(target)

    class Broken:
        def save_pretrained(self, path: Path) -> None:
            assert target.is_dir(), "the old version stays until the new one is whole"
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_version(target, model, Broken())
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]
    assert fingerprint(target) == before
