"""What is asked of any control plane."""
