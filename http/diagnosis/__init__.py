"""What a worker process is doing, for whoever asks why it does not do it."""
