"""In the step: hooks that look and never touch. No I/O, no locks, no logging."""
