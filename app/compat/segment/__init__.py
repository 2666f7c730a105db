"""Segment's HTTP tracking API, which RudderStack speaks too, for unmodified libraries.

- `endpoint`: authenticates, reads and answers a request
- `request`: parses a request into a call with its messages and the key in the body
- `classify`: decides for each message whether it becomes an item, a refusal or nothing
- `mapping`, `plain_values`: map a message to the fields of one of Leanplum's actions
- `field_paths`: translates pointers to faults back into the message
- `execute`: accepts the items of a call
- `response`: renders responses in the protocol's terms
"""
