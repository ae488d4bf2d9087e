"""Variants of tests that are slow: other variants of the same tests, or of the same code, run each time.

They take seconds each, mostly in processes that start and clocks that pass. `pytest -m slow` runs them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SLOW_VARIANTS"]

#: Tests by file, with the ids of their variants.
SLOW_VARIANTS: Final = frozenset(
    {
        # The whole command on a processor; the parts have tests of their own.
        "tests/serve/test_gpu_benchmark.py::test_a_row_of_http_and_one_of_flight_have_figures_and_right_vectors",
        # One process; with fronts they run each time.
        "tests/serve/fronts/test_overload.py::test_clients_that_read_nothing_hold_nobody_up[0]",
        "tests/serve/fronts/test_overload.py::test_ten_times_the_capacity_is_refused_and_the_rest_is_right[0]",
        "tests/serve/models/test_hung_loads.py::test_sigterm_ends_a_server_whose_first_load_hangs[0]",
        "tests/serve/models/test_hung_loads.py::test_sigterm_ends_a_server_whose_load_hangs[True-0]",
        "tests/serve/commands/test_stopping.py::test_the_port_stays_open_while_requests_drain[0]",
        "tests/serve/commands/test_stopping.py::test_load_balancers_have_time_to_leave[0]",
        "tests/serve/commands/test_stopping.py::test_two_signals_5_ms_apart_are_one[15-0]",
        "tests/serve/commands/test_stopping.py::test_work_that_is_left_when_the_time_to_drain_has_passed_ends_with_0[15-0]",
        # SIGINT; with SIGTERM they run each time.
        "tests/serve/commands/test_stopping.py::test_work_that_is_left_when_the_time_to_drain_has_passed_ends_with_0[2-0]",
        "tests/serve/commands/test_stopping.py::test_work_that_is_left_when_the_time_to_drain_has_passed_ends_with_0[2-2]",
        "tests/serve/commands/test_stopping.py::test_two_signals_5_ms_apart_are_one[2-0]",
        "tests/serve/commands/test_stopping.py::test_two_signals_5_ms_apart_are_one[2-2]",
        "tests/serve/fronts/test_supervisor.py::test_a_second_signal_later_than_two_seconds_ends_at_once[2]",
        "tests/serve/fronts/test_supervisor.py::test_a_signal_to_the_whole_group_drains[2]",
        "tests/serve/fronts/test_supervisor.py::test_a_second_signal_soon_after_the_first_is_the_same[2]",
        "tests/serve/models/test_hung_loads.py::test_sigterm_ends_a_server_whose_load_hangs[False-2]",
        # Floods of streams; those of lists run each time.
        "tests/serve/fairness/test_floods.py::test_single_texts_are_answered_during_another_clients_flood[flight]",
        "tests/serve/fairness/test_floods.py::test_single_texts_are_answered_during_another_clients_flood[ndjson]",
        # A second limit of the time.
        "tests/quantize/sweep/test_sweep.py::test_recipes_of_overlapping_speeds_are_measured_again_while_time_is_left[0.0]",
        # Families whose memory has the shape of another one's that runs each time.
        *(
            f"tests/convert/export/test_memory.py::test_a_batch_takes_at_most_the_predicted_memory_and_not_much_less[{name}]"
            for name in ("MPNet", "NomicBert", "ConvBert")
        ),
        # Half of the sample; 4,000 mutants are slow as well.
        *(f"tests/convert/mutants/test_mutants.py::test_sample[{chunk}]" for chunk in range(4, 8)),
    }
)
