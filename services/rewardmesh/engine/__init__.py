"""Models: the packed forward pass, log-probabilities, sampling, weights and their versions."""
