"""Front processes: HTTP and Flight in several processes, one engine process behind them, and a supervisor."""
