"""Mask files and what is done with masks: read, write, count, compare, draw, apply."""
