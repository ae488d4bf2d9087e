"""Parts that both command-line tools share."""
