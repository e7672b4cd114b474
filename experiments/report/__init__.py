"""One self-contained page about a set of runs: works from a file, without a server or a network."""
