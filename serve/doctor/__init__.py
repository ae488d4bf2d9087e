"""Checks of `fletcher-serve doctor`: the machine, access, storage, artifacts and GPUs, as production wants them."""
