"""Images and labels: reading, checking, augmenting and batching."""
