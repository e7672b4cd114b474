"""gpt2, gpt3, llama and mistral on plain PyTorch: names, initial weights and numbers of ModelZoo's."""
