"""The update phase of a training step (log-probabilities, loss, backward pass, optimiser) against TRL 1.16.

    make bench-trainer

Both train the same model from the same weights on the same batch; see `__main__` for what is measured and how.
"""
