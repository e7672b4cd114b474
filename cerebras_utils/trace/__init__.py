"""What would go to the CS-3's compiler, found out without a CS-3: masks, hints, and tensors to send."""
