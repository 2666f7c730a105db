"""Load on one server: by wrk if installed; else, and for counts and rates, by the generator."""

import json
import resource
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, replace

from bench import wrk
from bench.bodies import Traffic, fill, make_bodies
from bench.children import Child, ChildFailed
from bench.figures import Slice
from bench.generator import LoadJob
from bench.plan import Plan
from bench.stage import Stage
from bench.wire import Answer, acknowledged

MARGIN = 20.0
BODIES = 64


def _processor_seconds() -> float:
    """Return the processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Load:
    """The source of load for the servers of a stage."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage, self._plan = stage, plan
        self.wrk = shutil.which("wrk")

    def slice(
        self,
        child: Child,
        traffic: Traffic,
        connections: int | None = None,
        *,
        pinned: bool = True,
    ) -> Slice:
        """Measure a slice of the greatest load that the server can take."""
        connections = connections or self._plan.connections
        core = self._stage.load_core if pinned else None
        if not self.wrk:
            job = replace(self._job(child, traffic, self._plan.slice), connections=connections)
            return self._generate(child, job, core)
        script = self._stage.scratch / "load.lua"
        bodies = make_bodies(traffic, BODIES, self._plan.users)
        script.write_text(wrk.script(bodies, self._stage.key, self._prefix(), ids=traffic.ids))
        options = ["-t1", f"-c{connections}", f"-d{self._plan.slice}s", "--timeout", "10s"]
        argv = [self.wrk, *options, "-s", str(script), child.url + traffic.path]
        before = _processor_seconds()
        printed = self._stage.fleet.run(argv, core=core, limit=self._plan.slice + MARGIN)
        found = wrk.parse(printed, traffic.size)
        return replace(found, pss=child.pss(), processor=_processor_seconds() - before)

    def warm(self, child: Child, traffic: Traffic) -> None:
        """Warm a server up, and check its responses. Raises ChildFailed if one is wrong."""
        self._probe(child, traffic)
        job = self._job(child, traffic, self._plan.warm)
        warm_up = self._generate(child, job, self._stage.load_core)
        if warm_up.failed:
            failures = f"{warm_up.failed} of {warm_up.requests} requests"
            raise ChildFailed(f"{child.name} failed {failures}\n{child.log_end()}")

    def _probe(self, child: Child, traffic: Traffic) -> None:
        template = make_bodies(traffic, 1, self._plan.users)[0].encode()
        answer = self._post(
            child, traffic, fill(template, self._prefix(), iter(range(traffic.size)))
        )
        if acknowledged(answer, traffic.size) != traffic.size:
            response = f"{answer.status}: {answer.body[:500]!r}"
            raise ChildFailed(f"{child.name} answered {response}\n{child.log_end()}")

    def paced(
        self, child: Child, traffic: Traffic, *, rate: float, seconds: float, pinned: bool = True
    ) -> Slice:
        """Measure an open loop of `rate` requests per second."""
        job = replace(
            self._job(child, traffic, seconds), rate=rate, connections=4 * self._plan.connections
        )
        return self._generate(child, job, self._stage.load_core if pinned else None)

    def count(
        self,
        child: Child,
        traffic: Traffic,
        *,
        items: int,
        limit: float,
        connections: int,
        pinned: bool = True,
    ) -> Slice:
        """Send a fixed count of items as fast as they are accepted, within `limit` seconds."""
        requests = items // traffic.size
        job = replace(self._job(child, traffic, limit), requests=requests, connections=connections)
        distinct = requests if traffic.size * requests <= 200_000 else BODIES
        return self._generate(
            child, replace(job, bodies=distinct), self._stage.load_core if pinned else None
        )

    def _job(self, child: Child, traffic: Traffic, seconds: float) -> LoadJob:
        return LoadJob(
            port=child.port,
            key=self._stage.key,
            traffic=traffic,
            seconds=seconds,
            connections=self._plan.connections,
            users=self._plan.users,
            prefix=self._prefix(),
            bodies=BODIES,
        )

    def _generate(self, child: Child, job: LoadJob, core: int | None) -> Slice:
        argv = [sys.executable, "-m", "bench.generator"]
        text = json.dumps(asdict(job))
        printed = self._stage.fleet.run(argv, core=core, limit=job.seconds + MARGIN, text=text)
        return replace(Slice(**json.loads(printed)), pss=child.pss())

    def _post(self, child: Child, traffic: Traffic, body: bytes) -> Answer:
        headers = {"Authorization": f"Bearer {self._stage.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(child.url + traffic.path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as refusal:
            return Answer(refusal.code, refusal.read())

    def _prefix(self) -> str:
        return f"bench-{secrets.token_hex(6)}"
