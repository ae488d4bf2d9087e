"""Files that Fletcher writes on a machine, and for how long they stay: `fletcher-serve retention`."""
