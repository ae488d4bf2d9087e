"""What Fletcher writes on a machine, and for how long it stays: `fletcher-serve retention`."""
