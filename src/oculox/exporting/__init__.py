"""Networks as files of other runtimes, each compared with PyTorch before it is kept."""
