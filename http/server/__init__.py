"""gunicorn: the application, the worker classes, the hooks, the actors' control socket."""
