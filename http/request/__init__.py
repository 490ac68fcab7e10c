"""One request, from the edge to the relay of its answer."""
