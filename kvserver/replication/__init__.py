"""Epochs and, later, shipping, replay and roles. No grpc here."""
