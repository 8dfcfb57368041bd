"""The road between the trainer and the agent: append-only segments of checksummed records."""
