"""One front process: HTTP and Flight over tokenizers, without a session."""
