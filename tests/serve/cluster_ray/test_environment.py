"""Variables of Ray Serve: HAProxy and the throughput options alone, and releases of Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.environment import refuse_python_proxy, require_release, variables
from fletcher.serve.cluster_ray.options import RayOptions


def test_haproxy_and_the_throughput_options_are_on() -> None:
    made = variables(RayOptions(metrics_port=9999, stats_port=8888, replica_ports="40000-40010", stream_seconds=300))
    assert made["RAY_SERVE_ENABLE_HA_PROXY"] == made["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert (made["RAY_SERVE_HAPROXY_METRICS_PORT"], made["RAY_SERVE_HAPROXY_STATS_PORT"]) == ("9999", "8888")
    assert made["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "40000"
    assert made["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] == "40010"
    assert made["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "300"


def test_clusters_on_one_machine_have_folders_of_their_own() -> None:
    name = "RAY_SERVE_HAPROXY_SOCKET_PATH"
    assert variables(RayOptions(port=8000))[name] != variables(RayOptions(port=8001))[name]


@pytest.mark.parametrize("name", ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"])
def test_the_python_proxy_is_refused_with_the_reason(name: str) -> None:
    refuse_python_proxy({name: "1"})
    refuse_python_proxy({})
    with pytest.raises(InputError, match=rf"{name} is '0': .* 7 ms and 6.9 ms of CPU .* Unset the variable"):
        refuse_python_proxy({name: "0"})


@pytest.mark.parametrize("version", ["2.60.0", "2.60.9"])
def test_a_tested_release(version: str) -> None:
    require_release(version)


@pytest.mark.parametrize("version", ["2.59.1", "2.61.0", "3.0.0", "1.13.0"])
def test_another_release_is_refused(version: str) -> None:
    with pytest.raises(InputError, match=rf"node-2 has Ray {version}.*2.60 or later, before 2.61"):
        require_release(version, "node-2")


def test_the_command_line_imports_neither_ray_nor_pyarrow() -> None:
    program = (
        "import sys; import fletcher.serve.commands.cli; import fletcher.serve.cluster_ray.options\n"
        "import fletcher.serve.cluster_ray.scaling, fletcher.serve.cluster_ray.placement\n"
        "print([name for name in ('ray', 'pyarrow', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
