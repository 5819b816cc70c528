"""Examines a data folder without opening it for writing: checks that return findings, and print nothing."""
