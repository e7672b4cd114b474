"""The only package that imports Cerebras software, always inside functions."""
