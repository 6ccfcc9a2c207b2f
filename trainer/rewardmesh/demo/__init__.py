"""The embedded default: small models, generated problems, and the files of a whole run."""
