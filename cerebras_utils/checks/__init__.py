"""What is knowable before the queue: a subject a file, a check a function. ``doctor`` runs them."""
