"""Leanplum's own protocol, for unchanged Leanplum SDKs and client libraries (contract §6).

- `reading`: an HTTP request becomes a call: its arguments, its entries
- `call_arguments`: what a batch says as a whole, said for each entry
- `times`: each entry's time, corrected for the clock of the sender
- `sorting`: what becomes of each entry: accepted for later, asked now, refused
- `doing`: does it, and puts the answers into their places
- `answering`: answers in Leanplum's envelope; what would lead an SDK away from here is taken out
- `door`: who calls, and the way in and out
"""
