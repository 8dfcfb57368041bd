"""After an incident, in the trainer: replay the step, find the origin, name the cause."""
