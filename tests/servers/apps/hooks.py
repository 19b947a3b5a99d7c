"""A gunicorn configuration with nothing in it but our hooks."""

from klime_mp.integrations.gunicorn import child_exit, post_fork, worker_exit  # noqa: F401 - found by name
