"""The stores on one real Redis, with a clock that a test moves."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from gnomon.job.ids import MICROSECOND
from gnomon.job.model import Job
from gnomon.job.service import JobService
from gnomon.storage.redis.client import connect
from gnomon.storage.redis.database import RedisDatabase, micros
from gnomon.storage.redis.dispatch import RedisDispatchStore
from gnomon.storage.redis.executions import RedisExecutionStore
from gnomon.storage.redis.history import RedisHistoryStore
from gnomon.storage.redis.jobs import RedisJobStore
from gnomon.storage.redis.runs import RedisRunStore
from support.catalog import KnownCatalog
from support.keys import SEAL
from support.world import Scene


class RedisWorld(Scene):
    """One namespace seen through every store."""

    def __init__(self, url: str, *, namespace: str = "test", kept: int = 1_000, answer_seconds: float = 5.0) -> None:
        self.client = connect(url, answer_seconds=answer_seconds)
        self.database = RedisDatabase(self.client, namespace=namespace, kept=kept)
        self.jobs = RedisJobStore(self.database)
        self.history = RedisHistoryStore(self.database)
        self.runs = RedisRunStore(self.database)
        self.service = JobService(
            jobs=self.jobs, runs=self.runs, history=self.history, catalog=KnownCatalog(), seal=SEAL
        )
        self.dispatch = self.scheduler()
        self.executions = self.worker("worker-1")

    def worker(self, name: str) -> RedisExecutionStore:
        return RedisExecutionStore(self.database, worker=name)

    def scheduler(self, *, names: Callable[[], Collection[str]] | None = None) -> RedisDispatchStore:
        return RedisDispatchStore(self.database, names=names)

    def advance(self, time: timedelta) -> None:
        """Time passes for everything in the namespace."""
        self.client.incrby(f"{self.database.prefix}clock", time // MICROSECOND)

    def hold_clock(self, moment: datetime) -> None:
        """It stands still at this moment."""
        self.client.set(f"{self.database.prefix}clock", f"={micros(moment)}")

    def due(self, **document: Any) -> Job:
        """A job that is due now."""
        job = self.create(**document)
        self.make_due(job)
        return job

    def make_due(self, job: Job) -> None:
        ahead = self.dispatch.horizon()
        next_run = self.jobs.get(job.id).next_run
        assert next_run is not None
        self.advance(max(timedelta(0), next_run - ahead.now))

    def problems(self) -> list[str]:
        """What the indices say that the rows don't, or the other way round; none, however the scripts were used."""
        found: list[str] = []
        prefix = self.database.prefix
        rows = {
            key.removeprefix(f"{prefix}execution:"): self.client.hgetall(key)
            for key in self.client.scan_iter(f"{prefix}execution:*", count=1000)
        }
        jobs = {
            key.removeprefix(f"{prefix}job:"): self.client.hgetall(key)
            for key in self.client.scan_iter(f"{prefix}job:*", count=1000)
        }
        final = ("SUCCEEDED", "FAILED", "UNKNOWN", "CANCELLED", "SKIPPED")
        states: dict[str, set[str]] = {}
        for row_id, row in rows.items():
            states.setdefault(row["state"], set()).add(row_id)
        pending, running = states.get("PENDING", set()), states.get("RUNNING", set())

        def compare(index: str, expected: dict[str, float] | set[str]) -> None:
            there = dict(self.client.zrange(f"{prefix}{index}", 0, -1, withscores=True))
            same = there == expected if isinstance(expected, dict) else there.keys() == expected
            if not same:
                found.append(f"{index}: {there} instead of {expected}")

        compare("publish", {i: float(rows[i]["next_publish_at"]) for i in pending})
        compare("published", {i: float(rows[i]["published_at"]) for i in pending if int(rows[i]["publish_count"]) > 0})
        compare("leases", {i: float(rows[i]["lease_expires_at"]) for i in running})
        compare("executions", set(rows))
        compare("failed", states.get("FAILED", set()) | states.get("UNKNOWN", set()))
        compare(
            "due",
            {
                i: float(job["next_run"])
                for i, job in jobs.items()
                if job["status"] == "RUNNING" and "next_run" in job and "held_until" not in job
            },
        )
        for queue in {row["queue"] for row in rows.values()}:
            compare(
                f"repeated:{queue}",
                {i for i in pending if int(rows[i]["publish_count"]) > 1 and rows[i]["queue"] == queue},
            )
        for job_id, job in jobs.items():
            mine = {i: row for i, row in rows.items() if row["job_id"] == job_id}
            order = {"WAITING": 0.0, "PENDING": 1.0, "RUNNING": 2.0}
            compare(f"open:{job_id}", {i: order[row["state"]] for i, row in mine.items() if row["state"] in order})
            compare(f"history:{job_id}", set(mine))
            compare(f"publish:{job_id}", {i: float(rows[i]["next_publish_at"]) for i in pending & mine.keys()})
            compare(f"finished:{job_id}", {i for i, row in mine.items() if row["state"] in final})
            active = [i for i, r in mine.items() if r["state"] in ("PENDING", "RUNNING") and r["overlap"] != "allow"]
            if active != [job[name] for name in ("exclusive",) if name in job]:
                found.append(f"job {job_id}: exclusive {job.get('exclusive')} instead of {active}")
            queued = [i for i, r in mine.items() if r["state"] == "WAITING" and r["overlap"] == "queue"]
            if queued != [job[name] for name in ("queued",) if name in job]:
                found.append(f"job {job_id}: queued {job.get('queued')} instead of {queued}")
            if not active and any(row["state"] == "WAITING" for row in mine.values()):
                found.append(f"job {job_id}: waits for nothing")
        return found

    def close(self) -> None:
        self.client.close()
