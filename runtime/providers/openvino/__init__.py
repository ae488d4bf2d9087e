"""OpenVINO on the CPU."""

from collections.abc import Mapping
from types import MappingProxyType

#: Titles of the providers by precision; see `Provider.title`.
TITLES: Mapping[str, str] = MappingProxyType({"fp32": "OpenVINO CPU f32", "bf16": "OpenVINO CPU bf16"})
