"""Training: the run from top to bottom, and the parts it is made of."""
