"""Version 1 of the contract (gRPC package ``kvproto.v1``)."""
