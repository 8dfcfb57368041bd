"""The background process: tails the spool, judges, ships, and outlives the trainer. No torch here."""
