"""Tracks an event with the generated client, reads its receipt, and receives a typed error."""

import json
import sys

from client.api.events_users import track_event
from client.api.receipts import get_receipt
from client.client import AuthenticatedClient
from client.models.event import Event
from client.models.problem import Problem
from client.models.receipt import Receipt
from client.types import Unset

url, key = sys.argv[1:]
gateway = AuthenticatedClient(base_url=url, token=key)
event = Event(id="python-1", user_id="user-py", event="Purchase", value=9.99)
tracked = track_event.sync(client=gateway, body=event, prefer="wait=20")
assert isinstance(tracked, Receipt), tracked
found = get_receipt.sync(tracked.id, client=gateway)
assert isinstance(found, Receipt), found
refused = track_event.sync(client=gateway, body=Event(user_id="user-py", event=""))
assert isinstance(refused, Problem), refused
assert not isinstance(refused.errors, Unset)
said = {
    "tracked": tracked.status.value,
    "found": found.status.value,
    "problem": refused.type_,
    "pointer": refused.errors[0].pointer,
}
sys.stdout.write(json.dumps(said))
