"""The supervisor with real processes: stand-ins for the engine and the fronts that behave as each test says."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from fletcher.runtime.errors import InputError, OptionError, ServiceError
from fletcher.serve.fronts.children.process import MAX_ON_THE_WAY, Timing
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.served import ServedModel
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

from .test_forward import SECONDS, wait_for

STAND_IN = str(Path(__file__).with_name("stand_in.py"))
FAST = Timing(ping=0.1, hang=1.0, front_start=20.0, first_delay=0.05, max_delay=0.2, stable=30.0, margin=3.0)
#: The supervisor starts a process for each child, which `tests/heavy.py` cannot see.
pytestmark = pytest.mark.heavy

SPECS = (ModelSpec(path="", name="first"),)


class Stage:
    """The behavior of the stand-ins, and what they have written."""

    def __init__(self, folder: Path) -> None:
        self._behavior, self._log = folder / "behavior.json", folder / "log"
        self._log.touch()
        self.behave()

    def behave(self, **behaviors: str) -> None:
        """Set the behavior of the processes that start from now on: `engine="exit"`, `front_2="exit"`."""
        self._behavior.write_text(json.dumps({name.replace("_", " "): value for name, value in behaviors.items()}))

    @property
    def command(self) -> tuple[str, ...]:
        return sys.executable, STAND_IN, str(self._behavior), str(self._log)

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def count(self, beginning: str) -> int:
        return sum(line.startswith(beginning) for line in self.lines)

    @contextmanager
    def supervising(self, fronts: int = 2, drain: float = 5.0, timing: Timing = FAST) -> Iterator[Supervisor]:
        """Run a supervisor in this process; afterwards no process and no folder is left."""
        before = set(Path(tempfile.gettempdir()).glob("fletcher-*"))
        options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=fronts, drain_seconds=drain)
        try:
            with Supervisor(SPECS, options, command=self.command, timing=timing) as supervisor:
                yield supervisor
        finally:
            assert not self.alive()
            assert set(Path(tempfile.gettempdir()).glob("fletcher-*")) <= before

    def alive(self) -> list[int]:
        """Return the processes that were started and have not ended."""
        pids = [int(line.split(" start ")[1].split()[0]) for line in self.lines if " start " in line]
        return [pid for pid in pids if _alive(pid)]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    # Other tests make folders, too; and the path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Stage(tmp_path)


def _state(stat: Path) -> str:
    return stat.read_text().rsplit(")", 1)[1].split()[0]


def _alive(pid: int) -> bool:
    try:
        return _state(Path(f"/proc/{pid}/stat")) != "Z"
    except OSError:
        return False


def freeze(pid: int) -> None:
    """Stop all threads of a process."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(_state(thread / "stat") == "T" for thread in Path(f"/proc/{pid}/task").iterdir()))


def address(supervisor: Supervisor) -> tuple[str, int]:
    assert supervisor.addresses.http is not None
    host, port = supervisor.addresses.http.removeprefix("http://").split(":")
    return host, int(port)


class Connection:
    """A connection that stays open, on the front that got it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._client = http.client.HTTPConnection(*address(supervisor), timeout=SECONDS)
        self.front, self.pid = self.ask()

    def ask(self, path: str = "/") -> tuple[int, int]:
        self._client.request("GET", path)
        answer = json.loads(self._client.getresponse().read())
        return answer["front"], answer["pid"]

    def close(self) -> None:
        self._client.close()


@contextmanager
def connections(supervisor: Supervisor, count: int) -> Iterator[list[Connection]]:
    opened: list[Connection] = []
    try:
        for _ in range(count):
            opened.append(Connection(supervisor))
        yield opened
    finally:
        for connection in opened:
            connection.close()


def ask(supervisor: Supervisor, path: str = "/") -> dict[str, int]:
    """Send a request on a new connection."""
    with closing(http.client.HTTPConnection(*address(supervisor), timeout=SECONDS)) as connection:
        connection.request("GET", path)
        answer: dict[str, int] = json.loads(connection.getresponse().read())
        return answer


def test_connections_are_spread_evenly(stage: Stage) -> None:
    with stage.supervising(fronts=3) as supervisor:
        assert supervisor.models == (ServedModel("a", "b", "c"),)
        with connections(supervisor, 12) as opened:
            assert Counter(connection.front for connection in opened) == {1: 4, 2: 4, 3: 4}
            leaving = [connection for connection in opened if connection.front == 2]
            for connection in leaving:
                connection.close()
            time.sleep(0.4)  # the front reports ten times a second
            with connections(supervisor, 4) as others:
                assert [connection.front for connection in others] == [2] * 4


def test_many_connections_at_once_all_arrive(stage: Stage) -> None:
    with stage.supervising() as supervisor, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(supervisor)["front"], range(500)))
        assert set(Counter(answers)) == {1, 2}


def test_the_number_of_descriptors_stays(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        ask(supervisor)
        time.sleep(0.3)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(500):
            with closing(socket.create_connection(address(supervisor))) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert client.recv(100)
        wait_for(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208


def test_a_front_that_is_killed_comes_back_and_leaves_the_others_alone(stage: Stage) -> None:
    with stage.supervising() as supervisor, connections(supervisor, 4) as opened:
        victim = supervisor.pids[1][0]
        os.kill(victim, signal.SIGKILL)
        for connection in opened:
            if connection.pid != victim:
                assert connection.ask() == (connection.front, connection.pid)
        for _ in range(20):  # to the other front until it is back
            assert ask(supervisor)["pid"] != victim
        wait_for(lambda: stage.count("front 1 start") == 2)
        wait_for(lambda: any(ask(supervisor)["front"] == 1 for _ in range(2)))
        for connection in opened:
            if connection.pid != victim:
                assert connection.ask() == (connection.front, connection.pid)
        assert stage.count("engine start") == 1


def test_new_connections_never_reach_a_dead_front(stage: Stage) -> None:
    """Connections that were handed over but not received go to another front."""
    with stage.supervising() as supervisor:
        for _ in range(3):
            for number, pid in enumerate(supervisor.pids[1], 1):
                freeze(pid)  # it receives nothing more
                clients = [socket.create_connection(address(supervisor)) for _ in range(10)]
                for client in clients:
                    client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                time.sleep(0.05)
                starts = stage.count(f"front {number} start")
                os.kill(pid, signal.SIGKILL)
                for client in clients:
                    client.settimeout(SECONDS)
                    assert client.recv(1000).startswith(b"HTTP/1.1 200")
                    client.close()
                wait_for(lambda number=number, starts=starts: stage.count(f"front {number} start") > starts)
                wait_for(lambda number=number: any(ask(supervisor)["front"] == number for _ in range(2)))


def test_a_front_that_does_not_read_gets_few_connections(stage: Stage) -> None:
    with stage.supervising(timing=Timing(late=60, hang=60)) as supervisor, ExitStack() as stack:
        frozen = supervisor.pids[1][0]
        freeze(frozen)
        clients = [stack.enter_context(socket.create_connection(address(supervisor))) for _ in range(300)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

        def answered() -> int:
            return len(select.select(clients, [], [], 0)[0])

        wait_for(lambda: answered() == 300 - MAX_ON_THE_WAY)
        os.kill(frozen, signal.SIGCONT)
        wait_for(lambda: answered() == 300)


def test_a_front_whose_event_loop_is_busy_gets_few_connections(stage: Stage) -> None:
    """Its other threads run, so that they receive connections; what the loop does not take would be a queue in it."""
    with stage.supervising(timing=Timing(late=60, hang=60)) as supervisor, ExitStack() as stack:
        busy = stack.enter_context(socket.create_connection(address(supervisor)))
        busy.sendall(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(0.2)
        clients = [stack.enter_context(socket.create_connection(address(supervisor))) for _ in range(200)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

        def answered() -> int:
            return len(select.select(clients, [], [], 0)[0])

        wait_for(lambda: answered() >= 200 - MAX_ON_THE_WAY)
        time.sleep(0.2)
        assert answered() == 200 - MAX_ON_THE_WAY
        os.kill(supervisor.pids[1][0], signal.SIGKILL)


def test_a_front_that_answers_late_gets_no_connections_until_it_answers(stage: Stage) -> None:
    with stage.supervising(timing=Timing(ping=0.1, late=0.3, hang=60)) as supervisor:
        victim = Connection(supervisor)
        freeze(victim.pid)
        try:
            time.sleep(2.0)  # a ping, the time after which it is late, and a look at it
            began = time.monotonic()
            with connections(supervisor, 10) as opened:
                assert victim.front not in {connection.front for connection in opened}
            assert time.monotonic() - began < 10
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        wait_for(lambda: ask(supervisor)["front"] == victim.front)
        victim.close()


def test_a_front_that_dies_in_a_request(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        for _ in range(3):
            with pytest.raises(http.client.RemoteDisconnected):
                ask(supervisor, "/die")
            assert ask(supervisor)
        wait_for(lambda: sum(stage.count(f"front {number} start") for number in (1, 2)) == 5)


def test_a_front_that_hangs_is_killed_and_replaced(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        with pytest.raises(http.client.RemoteDisconnected):
            ask(supervisor, "/hang")
        wait_for(lambda: len(stage.lines) == 4)
        assert {ask(supervisor)["front"] for _ in range(4)} <= {1, 2}
        wait_for(lambda: {ask(supervisor)["front"] for _ in range(4)} == {1, 2})


def test_pings_do_not_kill_fronts_that_work(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        ask(supervisor, "/slow?2.5")
        assert len(stage.lines) == 3


def test_the_engine_that_is_killed_comes_back_with_the_models_that_it_had(stage: Stage) -> None:
    stage.behave(engine="change second")
    with stage.supervising() as supervisor, connections(supervisor, 2) as opened:
        stage.behave()
        os.kill(supervisor.pids[0], signal.SIGKILL)
        wait_for(lambda: stage.count("engine start") == 2)
        assert stage.lines[-1].endswith(" second")
        for connection in opened:
            assert connection.ask() == (connection.front, connection.pid)


def test_an_engine_that_cannot_start_again_is_tried_again(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        stage.behave(engine="error input")
        os.kill(supervisor.pids[0], signal.SIGKILL)
        wait_for(lambda: stage.count("engine start") >= 4)
        assert ask(supervisor)
        stage.behave()
        wait_for(lambda: stage.count("engine start") >= 5)


@pytest.mark.parametrize(
    ("behaviors", "kind", "message"),
    [
        ({"engine": "error input"}, InputError, r"^the file /a is not an artifact$"),
        ({"front_2": "error input"}, InputError, r"^the file /a is not an artifact$"),
        ({"engine": "error option"}, OptionError, "^precision is 'x': use fp16$"),
        ({"engine": "error other"}, ServiceError, "'engine'.*ValueError: a defect"),
        ({"engine": "exit"}, ServiceError, "'engine' ended with exit code 7 before it was ready"),
        ({"front": "exit"}, ServiceError, r"'front \d' ended with exit code 7 before it was ready"),
    ],
)
def test_a_failed_start_raises_the_error_of_the_process(
    stage: Stage, behaviors: dict[str, str], kind: type[Exception], message: str
) -> None:
    stage.behave(**behaviors)
    with pytest.raises(kind, match=message) as raised, stage.supervising():
        pass
    if isinstance(raised.value, OptionError):
        assert raised.value.field == "precision"


def test_a_front_that_never_gets_ready_ends_the_start(stage: Stage) -> None:
    stage.behave(front_1="never ready")
    timing = Timing(front_start=2.0)
    with pytest.raises(ServiceError, match="'front 1' was not ready within 2 s"), stage.supervising(timing=timing):
        pass


def test_fronts_wait_for_an_engine_that_takes_long(stage: Stage) -> None:
    stage.behave(engine="late 2", front="late 3.5")
    with stage.supervising(timing=Timing(front_start=3.0)) as supervisor:
        assert ask(supervisor)


def test_a_command_that_does_not_exist(stage: Stage) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=1)
    with pytest.raises(ServiceError, match="did not start"):
        Supervisor(SPECS, options, command=("/no/such/program",))


def test_a_port_in_use_is_named_and_no_process_is_started(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for door in ("http", "flight"):
            options = ServerOptions(http="off", flight="off", fronts=1).replace(**{door: f"127.0.0.1:{port}"})
            with pytest.raises(InputError, match=f"--{door} 127.0.0.1:{port}: the port is in use"):
                Supervisor(SPECS, options, command=stage.command)
    assert stage.lines == []


def test_flight_has_one_port_that_stays(stage: Stage) -> None:
    options = ServerOptions(http="off", flight="127.0.0.1:0", fronts=1)
    with Supervisor(SPECS, options, command=stage.command, timing=FAST) as supervisor:
        assert supervisor.addresses.http is None
        assert supervisor.addresses.flight is not None
        port = int(supervisor.addresses.flight.rsplit(":", 1)[1])
        with pytest.raises(OSError), socket.create_server(("127.0.0.1", port)):
            pass
        # The stand-in has no Flight server: the supervisor accepts the connection and closes it.
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
            assert client.recv(1) == b""


def test_stop_answers_open_requests(stage: Stage) -> None:
    with stage.supervising() as supervisor, ThreadPoolExecutor(4) as pool:
        idle = socket.create_connection(address(supervisor))
        answers = [pool.submit(ask, supervisor, "/slow?2.0") for _ in range(4)]
        time.sleep(0.5)
        assert supervisor.stop()
        assert {answer.result()["front"] for answer in answers} == {1, 2}
        idle.settimeout(SECONDS)
        assert idle.recv(10) == b""
        idle.close()
        with pytest.raises(OSError):
            socket.create_connection(address(supervisor))
        assert stage.lines[-1] == "engine stop 4" or stage.lines[-1] == "engine stop 3"
        assert stage.count("front 1 stop 5") == 1


def test_a_stop_has_a_limit(stage: Stage) -> None:
    with stage.supervising(drain=0.0, timing=Timing(margin=0.5)) as supervisor, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, supervisor, "/slow?30")
        time.sleep(0.3)
        began = time.monotonic()
        assert not supervisor.stop()
        assert time.monotonic() - began < 5
        with pytest.raises(http.client.RemoteDisconnected):
            answer.result()


def test_reload_reaches_every_process(stage: Stage) -> None:
    with stage.supervising() as supervisor:
        supervisor.reload()
        wait_for(lambda: stage.count("front 1 reload") == stage.count("front 2 reload") == 1)
        wait_for(lambda: stage.count("engine reload first") == 1)
        supervisor.reload([ModelSpec(path="", name="bad")])
        supervisor.reload([ModelSpec(path="", name="third")])
        wait_for(lambda: stage.count("engine reload third") == 1)
        supervisor.reload([ModelSpec(path="", name="bad")])
        wait_for(lambda: stage.count("engine reload bad") == 2)
        time.sleep(0.2)
        os.kill(supervisor.pids[0], signal.SIGKILL)
        wait_for(lambda: stage.count("engine start") == 2)
        assert stage.lines[-1].endswith(" third")  # not those that were rejected


def test_fronts_take_any_free_number_of_processes(stage: Stage) -> None:
    with stage.supervising(fronts=1) as supervisor:
        assert ask(supervisor)["front"] == 1
        assert len(supervisor.pids[1]) == 1


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from fletcher.runtime.errors import FletcherError
from fletcher.serve.fronts import supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

Supervisor = supervisor.Supervisor
supervisor.Supervisor = lambda specs, options, **others: Supervisor(specs, options, command=sys.argv[2:], **others)
options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=2, drain_seconds=3)
try:
    supervisor.run_supervisor([ModelSpec(path="", name="first")], options,
        reread=lambda: [ModelSpec(path="", name="again")])
except FletcherError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("returned", flush=True)
"""


@contextmanager
def process(stage: Stage) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A supervisor in a process of its own, and its address."""
    folder = tempfile.gettempdir()
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[3]), *stage.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": folder},
        start_new_session=True,
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        yield running, line.removeprefix("HTTP on ").strip()
    finally:
        running.kill()
        running.communicate()
        wait_for(lambda: not stage.alive())  # no orphan
        wait_for(lambda: not list(Path(folder).glob("fletcher-*")))  # no folder


def test_kill_of_the_supervisor_leaves_nothing(stage: Stage) -> None:
    with process(stage) as (running, url):
        assert httpx.get(url).status_code == 200
        assert len(stage.alive()) == 3
        assert list(Path(tempfile.gettempdir()).glob("fletcher-*"))
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_drains(stage: Stage, number: signal.Signals) -> None:
    """A terminal's Ctrl+C and systemd's stop reach every process; only the supervisor follows."""
    with process(stage) as (running, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{url}/slow?1.0", timeout=SECONDS)
        time.sleep(0.5)
        os.killpg(running.pid, number)
        assert answer.result().status_code == 200
        out, err = running.communicate(timeout=SECONDS)
        assert (running.returncode, out) == (0, "returned\n")
        lines = [json.loads(line) for line in err.splitlines()]
        assert lines[-1]["message"] == "stopped" and lines[-1]["all_answered"]
        assert not [line for line in lines if line["level"] == "error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_soon_after_the_first_is_the_same(stage: Stage, number: signal.Signals) -> None:
    """A wrapper that signals its child and the child's group sends two."""
    with process(stage) as (running, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{url}/slow?1.0", timeout=SECONDS)
        time.sleep(0.5)
        running.send_signal(number)
        time.sleep(0.005)
        os.killpg(running.pid, number)
        assert answer.result().status_code == 200
        assert running.wait(SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_later_than_two_seconds_ends_at_once(stage: Stage, number: signal.Signals) -> None:
    with process(stage) as (running, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{url}/slow?30", timeout=SECONDS)
        time.sleep(0.5)
        running.send_signal(number)
        time.sleep(2.2)
        assert running.poll() is None
        began = time.monotonic()
        running.send_signal(number)
        running.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 2
        assert running.returncode == 128 + number
        with pytest.raises(httpx.HTTPError):
            answer.result()


def test_sighup_reads_again(stage: Stage) -> None:
    with process(stage) as (running, url):
        os.killpg(running.pid, signal.SIGHUP)
        wait_for(lambda: stage.count("engine reload again") == 1)
        wait_for(lambda: stage.count("front 2 reload") == 1)
        assert httpx.get(url).status_code == 200


def test_a_failed_start_ends_the_process_with_the_message(stage: Stage) -> None:
    stage.behave(engine="error input")
    with process(stage) as (running, _):
        _, err = running.communicate(timeout=SECONDS)
        assert running.returncode == 1
        assert err.splitlines()[-1] == "InputError: the file /a is not an artifact"
