"""Plain values that several rooms speak of; imports nothing of ours."""
