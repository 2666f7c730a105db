"""The Leanplum apps: how they are configured, and what a change of that does."""
