"""Has Gnomon publish a message for amqp_consumer.py every five seconds, and tells what became of the first ones.

    .venv/bin/python examples/amqp_job.py

GNOMON is where the API is (http://127.0.0.1:8000), and GNOMON_KEY a key for it if it wants one; BROKER is the RabbitMQ
(amqp://guest:guest@127.0.0.1:5672/).
"""

import os
import time

import requests

GNOMON = os.environ.get("GNOMON", "http://127.0.0.1:8000")
KEY = os.environ.get("GNOMON_KEY")
BROKER = os.environ.get("BROKER", "amqp://guest:guest@127.0.0.1:5672/")
JOB = {
    "type": "AMQP",
    "name": "orders",
    "interval_seconds": 5,
    "amqp_job": {
        "connection": BROKER,
        "exchange": "shop",
        "routing_key": "order.created",
        "headers": {"origin": "examples"},
        "body": '{"order": 4711}',
        "content_type": "application/json",
    },
}


def main() -> None:
    """Creates the job, and waits for an execution."""
    gnomon = requests.Session()
    if KEY:
        gnomon.headers["Authorization"] = f"Bearer {KEY}"
    created = gnomon.post(f"{GNOMON}/v1/jobs", json=JOB, timeout=10)
    created.raise_for_status()
    job = created.json()
    print(f"job {job['id']} publishes to {job['amqp_job']['connection']}, next at {job['next_run']}", flush=True)
    gnomon.post(f"{GNOMON}/v1/jobs/{job['id']}/run", timeout=10).raise_for_status()
    while True:
        for execution in gnomon.get(f"{GNOMON}/v1/jobs/{job['id']}/executions", timeout=10).json():
            if execution["state"] in ("SUCCEEDED", "FAILED"):
                print(f"execution {execution['id']}: {execution['state']} {execution['error_message'] or ''}")
                return
        time.sleep(0.5)


if __name__ == "__main__":
    main()
