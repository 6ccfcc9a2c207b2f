"""Servers that run in the peers' virtual environments, started by their file names; nothing here is imported by the benchmark."""
