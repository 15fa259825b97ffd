"""Tasks per second of one Celery worker, for tasks that do nothing.

  python celery_bench.py REDIS_PORT TASKS POOL CONCURRENCY

Puts the tasks into the queue, then starts a worker and watches the queue get shorter: nothing is
measured inside a task. Settings are Celery's own, but that no results are kept. Prints one number.
"""

import os
import subprocess
import sys
import time

import redis

port, tasks, pool, concurrency = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.environ["REDIS_PORT"] = port
from celery_worker import app, noop  # noqa: E402  it reads the port

if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(tasks):
            noop.apply_async(producer=producer)
    queue = redis.Redis(port=int(port))
    # Gone when this process is, however that ends.
    command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "celery", "-A", "celery_worker"]
    command += ["worker", "--pool", pool, "--concurrency", concurrency, "--loglevel", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = subprocess.Popen(command, cwd=sys.path[0], stdout=sys.stderr)
    try:
        # Not how it starts, and not how it ends.
        seen = []
        for left in (tasks * 9 // 10, tasks // 20):
            while (now := queue.llen("celery")) > left:
                if worker.poll() is not None:
                    sys.exit(f"the worker ended with {worker.returncode}")
                time.sleep(0.002)
            seen.append((time.monotonic(), now))
        (begin, most), (end, least) = seen
        print((most - least) / (end - begin))
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
