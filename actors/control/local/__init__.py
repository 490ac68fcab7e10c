"""Our own control plane."""
