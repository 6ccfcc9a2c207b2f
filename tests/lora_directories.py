"""Writes LoRA adapter directories for tests of several packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# peft asks transformers in a way that transformers deprecates.
PEFT_WARNING = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
_TARGETS = {"gpt_neox": ["query_key_value", "dense_4h_to_h"]}


def write_adapter(path: Path, base: Path, seed: int = 1, **options: Any) -> Path:
    """A LoRA adapter with random weights on a causal model; the merged model lies in its folder `merged`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    targets = _TARGETS.get(model.config.model_type, ["q_proj", "v_proj", "down_proj"])
    adapted: Any = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": targets, "task_type": "CAUSAL_LM", **options}))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(path, save_embedding_layers=False)
    adapted.merge_and_unload().save_pretrained(path / "merged")
    return path
