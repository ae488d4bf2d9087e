"""Channel between front processes and the engine process: token ids one way, values the other."""
