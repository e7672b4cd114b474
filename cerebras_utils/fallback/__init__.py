"""The fallback backend: a cszoo config run on plain PyTorch, with ModelZoo's names, numbers and files."""
