"""How fast callers may be: token buckets, in memory."""
