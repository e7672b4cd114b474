"""Optimizers, schedules and clipping with the vendor's numbers, names and checkpoint states."""
