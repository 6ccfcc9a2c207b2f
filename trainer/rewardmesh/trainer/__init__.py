"""Online trainer: samples, credit, losses, algorithms and the loop that drives them against the mesh."""
