"""The keeping of the promise: verdicts, window, loop."""
