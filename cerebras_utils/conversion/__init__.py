"""Checkpoints made from checkpoints: LoRA merged, HuggingFace and back, adapters. All of it streams."""
