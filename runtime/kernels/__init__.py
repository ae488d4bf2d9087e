"""Fletcher's own operators for NVIDIA GPUs (domain `fletcher`): their sources, the build on a machine, and the built library.

`source/` has C++ and CUDA, which a wheel carries as text; nothing is compiled at installation.
"""
