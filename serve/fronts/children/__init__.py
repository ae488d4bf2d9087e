"""Children of the supervisor: their processes, and the choice of the front that gets a connection."""
