"""A small voice for the tests: says things to a running simulator as a client of Leanplum would."""

import time
from typing import Any

import httpx

Json = dict[str, Any]


class Talk:
    """One client of one simulator."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=10, verify=False, trust_env=False)

    def keys(self, kind: str = "prod") -> Json:
        return {"appId": "app_sandbox", "clientKey": f"{kind}_sandbox"}

    def call(self, action: str, kind: str = "prod", **args: Any) -> httpx.Response:
        return self.http.post("/api", json={**self.keys(kind), "action": action, **args})

    def entry(self, action: str, kind: str = "prod", **args: Any) -> Json:
        """The one entry of the answer to a lone action."""
        (entry,) = self.call(action, kind, **args).json()["response"]
        assert isinstance(entry, dict)
        return entry

    def track(self, user: str = "ann", event: str = "Open", **args: Any) -> httpx.Response:
        return self.call("track", userId=user, event=event, **args)

    def multi(self, *items: Json, kind: str = "prod", **args: Any) -> httpx.Response:
        return self.call("multi", kind, **{"time": time.time(), "data": list(items), **args})

    def entries(self, *items: Json) -> list[Json]:
        entries = self.multi(*items).json()["response"]
        assert isinstance(entries, list)
        return entries

    def plan(self, *faults: Json) -> httpx.Response:
        return self.http.post("/_simulator/faults", json={"faults": list(faults)})

    def user(self, user_id: str) -> Json:
        return self._seen(f"users/{user_id}")

    def stats(self) -> Json:
        return self._seen("stats")

    def requests(self) -> list[Json]:
        found = self._seen("requests")["requests"]
        assert isinstance(found, list)
        return found

    def count(self, user_id: str, event: str) -> int:
        """How often an event was applied to a user; 0 for an unknown user."""
        seen = self.http.get(f"/_simulator/users/{user_id}")
        return (
            int(seen.json()["events"].get(event, {"count": 0})["count"])
            if seen.status_code == 200
            else 0
        )

    def _seen(self, path: str) -> Json:
        found = self.http.get(f"/_simulator/{path}").raise_for_status().json()
        assert isinstance(found, dict)
        return found


def event(user: str, name: str = "Open", **args: Any) -> Json:
    """A `track` as an entry of a multi."""
    return {"action": "track", "userId": user, "event": name, **args}


def message(entry: Json, kind: str) -> str:
    """The text of an entry's `warning` or `error`."""
    return str(entry[kind]["message"])
