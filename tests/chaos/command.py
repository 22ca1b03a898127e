"""Break everything for some minutes under load, and see whether the books are right.

    scripts/chaos --minutes 5 --broker redis --seed 7

The same seed breaks the same things in the same order. The exit code is 1 when a promise was broken; then the folder
with all logs and rows stays.
"""

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from chaos import evidence
from chaos.agenda import Agenda
from chaos.api import Api
from chaos.brokers import BROKERS
from chaos.checker import DOUBLED, EARLY, LOST, STUCK, TWICE, check
from chaos.cluster import LEASE_SECONDS, WORKERS, Cluster
from chaos.faults import KINDS, ON_AMQP, Fault, Scene, plan
from chaos.load import HANDLERS, Load, Targets
from chaos.post import PostOffice, available
from chaos.recovery import Episode, Recovery, percentile, recoveries
from chaos.settle import settle, wait_for
from gnomon.embedded.ports import free_port, port_is_free
from gnomon.embedded.postgres import EmbeddedPostgres
from gnomon.storage.postgres.migrate import migrate

_READY_SECONDS = 120
_WARM_UP_SECONDS = 3
_SHOWN = 40
_LOOK_AHEADS = ("0s", "500ms", "5s")
_EXCERPT = 200
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=\[)\d+(?=\])")


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    kinds = given.faults.split(",") if given.faults else [kind for kind in KINDS if available() or kind not in ON_AMQP]
    ahead = given.ahead or random.Random(given.seed).choice(_LOOK_AHEADS)
    folder = Path(tempfile.mkdtemp(prefix="gnomon-chaos-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(
        f"chaos: seed={given.seed} minutes={given.minutes:g} broker={given.broker} ahead={ahead} "
        f"lease={LEASE_SECONDS}s faults={','.join(kinds)} folder={folder}",
        flush=True,
    )
    if not available():
        print("RabbitMQ is not installed here: without AMQP jobs and what breaks them", flush=True)
    faults = list(plan(given.seed, timedelta(minutes=given.minutes), kinds))
    (folder / "plan.txt").write_text("".join(f"{fault.at.total_seconds():.1f} {fault}\n" for fault in faults))
    run = Run(folder, given.broker, given.seed, ahead)
    try:
        episodes = run.carry_out(faults)
    except BaseException:
        print(f"the run broke off; its logs are in {folder}", flush=True)
        raise
    good = report(folder, episodes)
    if good and not given.keep:
        shutil.rmtree(folder)
    return 0 if good else 1


class Run:
    """One run, from the first server to the dump."""

    def __init__(self, folder: Path, broker: str, seed: int, ahead: str) -> None:
        self._folder = folder
        self._ahead = ahead
        self._seed = seed
        self._postgres = EmbeddedPostgres(folder / "postgres", settings={"max_connections": "200"})
        self._broker = BROKERS[broker](folder)
        self._post_office = PostOffice(folder) if available() else None
        self._begun = time.monotonic()

    def carry_out(self, faults: Sequence[Fault]) -> Sequence[Episode]:
        """Leaves rows and logs in the folder."""
        with ExitStack() as stack:
            for server in (self._postgres, self._broker):
                stack.callback(server.stop)
                server.start()
            migrate(self._postgres.url)
            evidence.install(self._postgres.url)
            if self._post_office is not None:
                stack.callback(self._post_office.stop)
                self._post_office.start()
            sink_url = stack.enter_context(_sink(self._folder))
            cluster = Cluster(
                database_url=self._postgres.url, queue_url=self._broker.url, folder=self._folder, ahead=self._ahead
            )
            stack.callback(cluster.stop)
            cluster.start()
            api = Api(cluster.api_urls)
            if not wait_for(lambda: all(cluster.members[name].ready for name in WORKERS), _READY_SECONDS):
                raise TimeoutError(f"the workers are not ready after {_READY_SECONDS} s")
            if not wait_for(lambda: api.handlers() >= set(HANDLERS), _READY_SECONDS):
                raise TimeoutError(f"nobody announced the handlers within {_READY_SECONDS} s")
            targets = Targets(sink_url, self._post_office)
            load = Load(api, targets, self._seed, self._folder)
            stack.callback(load.stop)
            load.start()
            time.sleep(_WARM_UP_SECONDS)
            self._begun = time.monotonic()
            scene = Scene(cluster=cluster, postgres=self._postgres, broker=self._broker, post_office=self._post_office)
            episodes = Agenda(scene, self._say).carry_out(faults)
            self._say("all is mended")
            load.stop()
            stuck = settle(self._postgres.url, api, self._post_office)
            (self._folder / "stuck.txt").write_text("".join(f"{name}\n" for name in stuck))
            self._say("all is settled")
            evidence.dump(self._postgres.url, self._folder)
        for verb, times in sorted(api.answers.items()):
            print(f"  {times:6} {verb}")
        for surprise in api.surprises[:_SHOWN]:
            print(f"  unexpected: {surprise}")
        return episodes

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._begun:7.1f} s] {what}", flush=True)


def report(folder: Path, episodes: Sequence[Episode]) -> bool:
    """Prints what the checker finds; whether all is well."""
    found = evidence.load(folder)
    violations = check(found)
    for violation in violations[:_SHOWN]:
        print(violation)
    states = Counter(row["state"] for row in found.executions)
    print(
        ", ".join(f"{state} {count}" for state, count in states.most_common()),
        f"effects {len(found.effects)}, messages among them {len(found.messages)}",
        sep=", ",
    )
    for line, times in _errors(folder).most_common(_SHOWN):
        print(f"  logged {times} times: {line}")
    recovered = sorted(recoveries(found, episodes), key=lambda recovery: -recovery.seconds)
    print("the slowest recoveries:")
    for recovery in recovered[:5]:
        print(f"  {_told(recovery)}")
    totals = {kind: sum(violation.kind == kind for violation in violations) for kind in (LOST, DOUBLED, TWICE, STUCK)}
    if violations:
        print(f"{len(violations)} violations; rows and logs are in {folder}")
    early = sum(violation.kind == EARLY for violation in violations)
    print(f"early={early}")
    p99 = percentile([recovery.seconds for recovery in recovered], 0.99)
    counted = " ".join(f"{kind}={total}" for kind, total in totals.items())
    print(
        f"faults={len(episodes)} executions={len(found.executions)} {counted} recovery_p99_seconds={p99:.1f}",
        flush=True,
    )
    return not violations


def _errors(folder: Path) -> Counter[str]:
    """What our processes logged as errors, by the beginning of the text."""
    lines = (
        _ID.sub("…", line) for log in folder.glob("*-?.log") for line in log.read_text(errors="replace").splitlines()
    )
    return Counter(" ".join(line.split()[2:])[:_EXCERPT] for line in lines if _is_error(line))


def _is_error(line: str) -> bool:
    """Handlers that do as they are told are no news."""
    return " ERROR " in line[:60] and not any(f"handler {name} " in line for name in HANDLERS)


def _told(recovery: Recovery) -> str:
    episode = recovery.episode
    first = "nothing fell due" if recovery.first is None else f"the first prompt start {recovery.first:.1f} s"
    return f"{recovery.seconds:5.1f} s after {episode.name} ({first}, the last that was hit {recovery.last:.1f} s)"


@contextmanager
def _sink(folder: Path) -> Iterator[str]:
    port = free_port()
    log = (folder / "sink.err").open("ab")
    process = subprocess.Popen([sys.executable, "-m", "chaos.sink", str(port), str(folder / "sink.log")], stderr=log)
    try:
        wait_for(lambda: not port_is_free(port), 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        log.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=5.0, help="how long things break (default 5)")
    parser.add_argument("--broker", choices=sorted(BROKERS), default="redis")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: drawn, and shown")
    parser.add_argument("--ahead", default="", help="scheduler.ahead of the schedulers; default: drawn by the seed")
    parser.add_argument("--faults", default="", help="only these kinds, with commas between")
    parser.add_argument("--keep", action="store_true", help="keep the folder with rows and logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
