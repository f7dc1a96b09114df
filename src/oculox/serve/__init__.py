"""The HTTP service: `oculox serve`, its page and its limits."""
