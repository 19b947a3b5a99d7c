"""Celery's settings. The queue is a folder, so that the example needs no server; yours is at redis:// or amqp://."""

import os
from pathlib import Path

_FOLDER = Path(os.environ.get("EXAMPLE_FOLDER", "."))

broker_url = "filesystem://"
broker_transport_options = {
    "data_folder_in": str(_FOLDER / "queue"),
    "data_folder_out": str(_FOLDER / "queue"),
    "control_folder": str(_FOLDER / "control"),
    "processed_folder": str(_FOLDER / "processed"),
    "store_processed": True,
}
task_ignore_result = True
worker_enable_remote_control = False  # it would go through the same folder
