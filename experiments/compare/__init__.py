"""Runs beside each other: by configuration, against the dense baseline, with what is wrong said first."""
