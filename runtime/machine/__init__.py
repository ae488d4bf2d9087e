"""Processors, memory and GPUs of this machine."""
