"""The servers that the gateway is measured beside, each an ASGI app that uvicorn runs."""
