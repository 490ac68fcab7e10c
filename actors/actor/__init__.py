"""What every actor of a gateway is, and where each is found."""
