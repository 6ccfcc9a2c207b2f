"""Judges on trial: deliberate biases, injected text, engines side by side, what verdicts cost; see `__main__`."""
