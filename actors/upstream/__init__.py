"""The HTTP/1.1 client: for providers, MCP servers and the dial to coderd."""
