"""What people touch: the command line, and later sweeps, runs and comparisons."""
