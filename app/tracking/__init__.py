"""Tracking: the plan of each app, the names that it uses, and the violations of both.

- `plan`: the tracking plan: load, validate, diff
- `plan_files`: the plan's files on disk, reloaded when they change
- `names`, `name_store`: the names that an app uses; their store
- `checker`: checks the items of one call against the plan and the names
- `violations`: counts of what was found
- `service`: the plans, names and violations of the running gateway; makes the checker of each call
"""
