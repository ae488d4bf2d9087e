"""Pages of several processes as one; the expected values are worked out by hand."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from fletcher.serve.observe.pages import add_pages, counts_of

ENGINE = b"""# HELP fletcher_requests_total Answered requests
# TYPE fletcher_requests_total counter
fletcher_requests_total{route="/a"} 3
# TYPE fletcher_requests_created gauge
fletcher_requests_created{route="/a"} 100
# TYPE fletcher_models_awake gauge
fletcher_models_awake 2
# TYPE fletcher_tokenization_throughput gauge
fletcher_tokenization_throughput 0
"""

FRONT = b"""# HELP fletcher_requests_total Answered requests
# TYPE fletcher_requests_total counter
fletcher_requests_total{route="/a"} 4
fletcher_requests_total{route="/b"} 5
# TYPE fletcher_requests_created gauge
fletcher_requests_created{route="/a"} 200
fletcher_requests_created{route="/b"} 201
# TYPE fletcher_models_awake gauge
fletcher_models_awake 1
# TYPE fletcher_http_connections gauge
fletcher_http_connections 7
# TYPE fletcher_tokenizer_tokens_total counter
fletcher_tokenizer_tokens_total 600
# TYPE fletcher_tokenizer_seconds_total counter
fletcher_tokenizer_seconds_total 1.5
# TYPE fletcher_tokenization_throughput gauge
fletcher_tokenization_throughput 400
# TYPE fletcher_only_created gauge
fletcher_only_created 300
# TYPE fletcher_size histogram
fletcher_size_bucket{le="1.0"} 1
fletcher_size_bucket{le="+Inf"} 2
fletcher_size_count 2
fletcher_size_sum 3
"""


def samples(page: bytes) -> dict[tuple[str, str], float]:
    """Return the values of a page by name and label."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


MEMORY = b"""# TYPE fletcher_process_resident_bytes gauge
fletcher_process_resident_bytes{process="%s"} %d
"""


def test_a_gauge_of_processes_has_a_value_for_each_process() -> None:
    found = samples(add_pages(MEMORY % (b"engine", 100), [MEMORY % (b"front-1", 7), MEMORY % (b"front-2", 8)]))
    values = {
        process: found["fletcher_process_resident_bytes", process] for process in ("engine", "front-1", "front-2")
    }
    assert values == {"engine": 100, "front-1": 7, "front-2": 8}


def test_counts_of_all_processes_are_added() -> None:
    found = samples(add_pages(ENGINE, [FRONT, FRONT]))
    assert found["fletcher_requests_total", "/a"] == 3 + 4 + 4
    assert found["fletcher_requests_total", "/b"] == 5 + 5
    assert found["fletcher_size_bucket", "1.0"] == 2
    assert found["fletcher_size_count", ""] == 4 and found["fletcher_size_sum", ""] == 6


def test_a_gauge_is_the_first_processs_or_the_sum_of_the_others() -> None:
    found = samples(add_pages(ENGINE, [FRONT, FRONT]))
    assert found["fletcher_models_awake", ""] == 2
    assert found["fletcher_http_connections", ""] == 14


def test_times_are_not_added() -> None:
    found = samples(add_pages(ENGINE, [FRONT, FRONT]))
    assert found["fletcher_requests_created", "/a"] == 100
    assert ("fletcher_only_created", "") not in found


def test_the_throughput_is_that_of_the_sums() -> None:
    two = FRONT.replace(b"seconds_total 1.5", b"seconds_total 0.5")
    assert samples(add_pages(ENGINE, [FRONT, two]))["fletcher_tokenization_throughput", ""] == 1200 / 2.0
    assert samples(add_pages(ENGINE, []))["fletcher_tokenization_throughput", ""] == 0


def test_only_counts_remain_of_an_ended_process() -> None:
    found = samples(counts_of(FRONT))
    assert found["fletcher_requests_total", "/b"] == 5 and found["fletcher_size_count", ""] == 2
    assert not {name for name, _ in found} & {"fletcher_http_connections", "fletcher_models_awake"}
    assert samples(add_pages(b"", [counts_of(FRONT)])) == found
