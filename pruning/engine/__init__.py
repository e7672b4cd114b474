"""From a plan to bits: the compiled kernels, the reads that feed them, and what is put together from both."""
