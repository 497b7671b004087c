"""Agents: what acts and learns from batches."""
