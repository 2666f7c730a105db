"""Segment's HTTP tracking API, which RudderStack speaks too, for unchanged libraries of both
(contract §7).

- `reading`: an HTTP request becomes a call: its messages, the key in it
- `plain`: names and values of any kind become such as Leanplum takes
- `making`, `users`, `mapping`: a message becomes the fields of one of Leanplum's actions
- `judging`: what becomes of each message of a call: an item, a refusal, nothing
- `answering`: answers in the protocol's words
- `door`: who calls, what is accepted, and the way in and out
"""
