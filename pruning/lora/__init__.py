"""Low-rank factors beside frozen sparse weights, and merges that say what they cost."""
