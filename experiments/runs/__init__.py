"""Runs as they lie on the disk, of this project and of plain cszoo: found, read, cached."""
