"""Other people's protocols in front of our services, for trainers that are not ours."""
