"""Networks as files of other runtimes, each proven equal to PyTorch before it is published."""
