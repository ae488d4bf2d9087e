"""`fletcher-serve bench`: speed of an artifact on this machine, alone or beside peers, each in its own process."""
