"""Adapters that carry the services over a wire. grpc.aio is the first; nothing below this floor knows of it."""
