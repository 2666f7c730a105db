"""Request plumbing shared by `api` and `compat`."""
