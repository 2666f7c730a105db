"""Real Leanplum SDKs and client libraries, unchanged but for the address and the key."""
