"""The audit: tamper-evident records of who did what, written in the transaction they are about."""
