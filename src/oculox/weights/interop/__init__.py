"""One module per foreign layout of weights."""
