"""A process that embeds a Scheduler, told what to do by its arguments: URL, file of effects, lease, name=role…

Each effect is one line: the job, its moment, the attempt and this process. Roles: `tick` runs each second; `hang` runs
once and does not end; `nap` runs once and takes two seconds.
"""

import os
import sys
import time
from pathlib import Path

from gnomon import After, Context, Every, Scheduler

ROLES = {"tick": Every(1), "hang": After(0), "nap": After(0)}


def main(url: str, effects: str, lease: str, *jobs: str) -> None:
    scheduler = Scheduler(url, lease=lease)
    file = os.open(Path(effects), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(context: Context, name: str, role: str) -> str:
        line = f"{name} {context.scheduled_at.isoformat()} {context.attempt} {os.getpid()}\n"
        os.write(file, line.encode())  # one write to a file opened for appending: lines don't mix
        if role == "hang" and context.attempt == 1:
            time.sleep(600)
        if role == "nap":
            time.sleep(2)
        return str(os.getpid())

    for job in jobs:
        name, role = job.split("=")
        scheduler.register(name, ROLES[role], note, payload={"name": name, "role": role}, timeout=300)
    scheduler.start()
    print("is ready", file=sys.stderr, flush=True)
    if os.environ.get("ENDS"):
        time.sleep(float(os.environ["ENDS"]))
        return
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
