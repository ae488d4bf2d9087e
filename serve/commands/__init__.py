"""The commands of `fletcher-serve`."""
