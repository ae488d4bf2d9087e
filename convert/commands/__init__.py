"""The commands of `fletcher-convert`."""
