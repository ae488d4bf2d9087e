"""LoRA matrices (peft) inside a model, and their addition to its weights. The module is imported by a training."""

from __future__ import annotations

from typing import Any

__all__ = ["add_lora", "merge_lora"]


def add_lora(model: Any, rank: int, seed: int) -> None:
    """Put LoRA matrices into all linear layers of the encoder, and freeze the other weights.

    Args:
        model: a model of sentence-transformers.
        rank: rank of the matrices.
        seed: seed of their values.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(config, model[0].model)


def merge_lora(model: Any) -> None:
    """Add the matrices to the weights, and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if hasattr(model[0].model, "peft_config"):
        del model[0].model.peft_config
