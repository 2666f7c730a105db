"""The servers that the gateway is compared with or sends to, as ASGI apps run by uvicorn."""
