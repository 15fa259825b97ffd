"""The application of celery_bench.py and of the worker that it starts."""

import os

from celery import Celery

app = Celery("celery_worker", broker=f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0")
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop")
def noop():
    pass
