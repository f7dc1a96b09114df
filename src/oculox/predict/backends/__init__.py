"""One module for each format of a network; `oculox.predict.opening` chooses among them."""
