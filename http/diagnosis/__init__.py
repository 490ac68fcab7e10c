"""What a worker process is doing, for those who ask why it does not do it."""
