"""`fletcher-serve bench`: how fast an artifact is here, alone or beside peers, each in a process of its own."""
