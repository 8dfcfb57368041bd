"""The trainer's side of a run: its folder, its agent, its farewell, and the probes of all attach calls together."""
