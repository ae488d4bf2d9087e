"""`fletcher-serve bench`: how fast an artefact is here, alone or beside peers, each in a process of its own."""
