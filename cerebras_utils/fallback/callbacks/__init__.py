"""Callbacks of ModelZoo that measure and log, by their names there: the same tags, the same numbers."""
