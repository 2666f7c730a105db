"""The scenario with a PyPI client: python python_clients.py NAME URL APP_ID KEY USER; prints what
the client said.

Both clients' packages are called `leanplum`, so each is in a folder of its own, which PYTHONPATH
names.
"""

import json
import sys
from typing import Any

import leanplum  # type: ignore[import-not-found,unused-ignore]


def python_leanplum(url: str, app: str, key: str, user: str) -> list[Any]:
    """`python-leanplum`: its address is a variable of the package."""
    from leanplum.client import Client  # type: ignore[import-not-found,unused-ignore]

    leanplum.api_base = url
    client = Client(app, key)
    always = {"create_disposition": "CreateIfNeeded"}
    said = [
        client.users.set_user_attributes(
            user, attributes={"plan": "pro", "nickname": None}, **always
        )
    ]
    for index in range(20):
        event, value = ("Purchase", 9.99) if index == 10 else (f"event {index}", index)
        said.append(client.users.track(user, event, value=value, params={"index": index}, **always))
    said.append(client.users.advance(user, "Checkout", info="info", params={"step": 2}))
    said.append(client.request("POST", "start", {"userId": user}))
    said.append(client.request("GET", "getVars", {"userId": user}))
    said.append(client.request("POST", "stop", {"userId": user}))
    return [one["response"][0] for one in said]


def leanplum_py(url: str, app: str, key: str, user: str) -> list[Any]:
    """`leanplum`: its address is an attribute of the client."""
    from leanplum.base import Leanplum  # type: ignore[import-not-found,unused-ignore]

    client = Leanplum(app, key)
    client.BASE_URL = url
    client.set_device_id(f"device of {user}")
    said = [client.start({"userId": user})]
    for index in range(20):
        event, value = ("Purchase", 9.99) if index == 10 else (f"event {index}", index)
        said.append(client.track(event, {"value": value, "params": {"index": index}}))
    said.append(client.set_user_attributes({"userAttributes": {"plan": "team", "nickname": None}}))
    said.append(client._request({"action": "advance", "state": "Checkout", "params": {"step": 2}}))
    said.append(client.multi([{"action": "pauseState"}, {"action": "resumeState"}]))
    said.append(client._request({"action": "getVars"}))
    said.append(client.stop())
    return said


CLIENTS = {"python-leanplum": python_leanplum, "leanplum": leanplum_py}

if __name__ == "__main__":
    json.dump(CLIENTS[sys.argv[1]](*sys.argv[2:]), sys.stdout)
