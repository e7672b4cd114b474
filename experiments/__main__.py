"""``python -m experiments`` is ``wafersparse``, also where the package is not installed."""

from experiments.cli import main

main()
