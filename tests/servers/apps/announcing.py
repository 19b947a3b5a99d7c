"""A gunicorn configuration with none of our hooks: each worker says when it has loaded the application."""


def post_worker_init(worker):
    worker.log.info("Initialized")
