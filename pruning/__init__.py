"""Tensors in, masks out. Knows checkpoints and bits; never a command line, never Cerebras software."""
