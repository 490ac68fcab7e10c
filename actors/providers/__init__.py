"""One actor per configured provider, and the workers that own its upstream connections."""
