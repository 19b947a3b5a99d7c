"""gunicorn's settings for the shop; `gunicorn shop:app` in this folder reads them by itself."""

# Optional: without these three hooks every event arrives as well. With them a worker sends what is left when
# gunicorn says it exits, before the exit handlers of other libraries run. gunicorn finds hooks by their names,
# so importing them is all there is to do; a hook of your own calls the imported one (the README shows how).
from klime_mp.integrations.gunicorn import child_exit, post_fork, worker_exit  # noqa: F401  (found by name)

bind = "127.0.0.1:8000"
workers = 4

# The application is loaded once, in the master, and the workers are forked from it: the Klime client as well.
preload_app = True

# A worker is replaced after so many requests (plus up to the jitter, or all would go at once).
max_requests = 1000
max_requests_jitter = 100
