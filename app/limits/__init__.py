"""Rate limits of callers and apps: token buckets, in memory or shared by all replicas."""
