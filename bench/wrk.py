"""The script that makes wrk post our bodies, and the parser of the line that it prints."""

import json
from collections.abc import Sequence

from bench.bodies import ID_MARK
from bench.figures import Slice

MARK = "BENCH "

_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer %(key)s"
wrk.headers["Content-Type"] = "application/json"
local bodies = {
%(bodies)s
}
local requests, turn, number = {}, 0, 0

local function next_id()
  number = number + 1
  return "%(prefix)s-" .. number
end

function init(args)
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, nil, nil, body) end
end

function request()
  turn = turn %% #bodies + 1
  if %(fresh)s then
    return wrk.format(nil, nil, nil, (bodies[turn]:gsub("%(mark)s", next_id)))
  end
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\\n%(line)s{"requests":%%d,"microseconds":%%d,"refused":%%d,"broken":%%d,"p50":%%.1f,"p99":%%.1f}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def script(bodies: Sequence[str], key: str, prefix: str, *, ids: bool) -> str:
    """Return a script that posts `bodies` in turn; with `ids`, id marks become unique ids."""
    return _SCRIPT % {
        "key": key,
        "bodies": ",\n".join(f"[==[{body}]==]" for body in bodies),
        "prefix": prefix,
        "fresh": "true" if ids else "false",
        "mark": ID_MARK,
        "line": MARK,
    }


def parse(output: str, size: int) -> Slice:
    """Parse the output, for requests of `size` items. Raises ValueError if it has no result."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        raise ValueError(f"wrk printed no result: {output[-500:]!r}")
    found = json.loads(lines[-1].removeprefix(MARK))
    return Slice(
        requests=found["requests"],
        failed=found["refused"] + found["broken"],
        items=(found["requests"] - found["refused"]) * size,
        seconds=found["microseconds"] / 1e6,
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
    )
