"""Checks programs by their tests: what the `code` verifier does. `judging` is where to begin; `suite` says how tests are written."""
