"""Plays each service's scenario twice, straight to the server and through tidegate, and compares what all sides hold in the end.

    play.py --tidegate FILE --node-modules FOLDER SERVICE...

Started by `run`, which installs what is needed. Every process that is started here ends here, also after a failure or a signal.
"""

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import check

HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS_MAX = 30
SCENARIO_SECONDS_MAX = 120
STOP_SECONDS_MAX = 10
ALL_SECONDS_MAX = 600
PASSWORDS = {"alice": "alice-password", "bob": "bob-password"}
CREDENTIALS = [*PASSWORDS.values(), *(base64.b64encode(f"{user}:{word}".encode()).decode() for user, word in PASSWORDS.items())]

# What a document costs is not this test's subject: on a machine that is busy with other things a slow reply would make a document dear, and
# the log would then rightly say another class. So nothing is dear here, and nothing outlives its class.
SETTINGS = ("gate.long_cost=10m", "class.noop.long_after=25s", "class.sync.long_after=25s")

KINTO = """
[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = {port}

[app:main]
use = egg:kinto
kinto.userid_hmac_secret = a secret of this test
kinto.storage_backend = kinto.core.storage.memory
kinto.cache_backend = kinto.core.cache.memory
kinto.permission_backend = kinto.core.permission.memory
kinto.bucket_create_principals = system.Authenticated
kinto.includes = kinto.plugins.default_bucket
multiauth.policies = basicauth
"""

RADICALE = """
[server]
hosts = 127.0.0.1:{port}
[auth]
type = htpasswd
htpasswd_filename = {folder}/users
htpasswd_encryption = plain
[storage]
filesystem_folder = {folder}/collections
[logging]
level = warning
"""


class Failure(Exception):
    """Something is not as it must be."""


@dataclasses.dataclass
class Service:
    """How to run one service and its clients."""

    server: object                 # (port, folder) -> the command of the app server
    clients: list                  # the command of the scenario, to which the server's address and the output file are added
    changing: frozenset = frozenset()   # fields of a document that differ from run to run by their nature, such as times
    recorded: bool = False         # whether the server writes `record` in its folder


def services(node_modules):
    """Every service by its name."""
    python = sys.executable

    def couchdb(port, folder):
        return ["node", HERE / "couchdb/server.js", str(port), folder / "record"]

    def kinto(port, folder):
        (folder / "kinto.ini").write_text(KINTO.format(port=port))
        return [pathlib.Path(python).parent / "kinto", "start", "--ini", folder / "kinto.ini", "--port", str(port)]

    def caldav(port, folder):
        (folder / "users").write_text("alice:alice-password\n")
        (folder / "config").write_text(RADICALE.format(port=port, folder=folder))
        return [python, "-m", "radicale", "--config", folder / "config"]

    os.environ["NODE_PATH"] = node_modules
    return {
        "couchdb": Service(couchdb, ["node", HERE / "couchdb/clients.js"], recorded=True),
        "kinto": Service(kinto, [python, HERE / "kinto/clients.py"], changing=frozenset({"last_modified"})),
        "caldav": Service(caldav, [python, HERE / "caldav/clients.py"]),
    }


class Process:
    """A process in a group of its own, with a log; ends with the `with` block."""

    def __init__(self, name, command, folder):
        self.name, self.log = name, folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def tail(self):
        return "\n".join("    " + line for line in self.log.read_text(errors="replace").splitlines()[-40:])

    def wait(self, seconds):
        """Its exit code; a failure if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} was still running after {seconds} s:\n{self.tail()}") from None

    def wait_until_answers(self, url):
        """Waits for any answer but 503, which is how a service says that it is not ready."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode} instead of starting:\n{self.tail()}")
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 503:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failure(f"{self.name} did not answer at {url} within {START_SECONDS_MAX} s:\n{self.tail()}")

    def end(self):
        """Asks it to end; its exit code."""
        self.process.terminate()
        return self.wait(STOP_SECONDS_MAX)

    def stop(self):
        """Ends whatever of its group is left."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS_MAX)


def free_ports(count):
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def play(service, folder, tidegate=None, profile=None):
    """Runs server and clients in the folder, with tidegate between them if it is given; what all sides hold, and the seconds it took."""
    app, front, admin = free_ports(3)
    server_folder, clients_folder = folder / "server", folder / "clients"
    server_folder.mkdir(parents=True)
    clients_folder.mkdir()
    with contextlib.ExitStack() as running:
        server = running.enter_context(Process("server", service.server(app, server_folder), server_folder))
        server.wait_until_answers(f"http://127.0.0.1:{app}/")
        with contextlib.suppress(FileNotFoundError):
            (server_folder / "record").unlink()
        gate = None
        if tidegate:
            command = [tidegate, "run", "--listen", f"127.0.0.1:{front}", "--app", f"127.0.0.1:{app}", "--admin", f"127.0.0.1:{admin}",
                       "--profile", profile, "--set", f"log.access={folder / 'access.log'}"]
            gate = running.enter_context(Process("tidegate", command + [word for key in SETTINGS for word in ("--set", key)], folder))
            gate.wait_until_answers(f"http://127.0.0.1:{admin}/readyz")
        begun = time.monotonic()
        clients = running.enter_context(Process("clients", [*service.clients, f"127.0.0.1:{front if gate else app}", folder / "held"], clients_folder))
        if code := clients.wait(SCENARIO_SECONDS_MAX):
            seen = f"\n  tidegate's log:\n{gate.tail()}" if gate else ""
            raise Failure(f"the clients ended with {code}:\n{clients.tail()}\n  the server's log:\n{server.tail()}{seen}")
        seconds = time.monotonic() - begun
        if gate:
            look_at_metrics(admin, folder / "access.log")
            if code := gate.end():
                raise Failure(f"tidegate ended with {code} after SIGTERM:\n{gate.tail()}")
    return json.loads((folder / "held").read_text()), seconds


def look_at_metrics(admin, log):
    """When all clients have left nothing may be in flight or waiting, and every request that was counted must stand in the log, no other."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        total = {
            name: sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.MULTILINE))
            for name in ("tidegate_requests_total", "tidegate_in_flight", "tidegate_queued")
        }
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        if total == {"tidegate_requests_total": lines, "tidegate_in_flight": 0, "tidegate_queued": 0} and lines:
            return
        if time.monotonic() > deadline:
            raise Failure(f"{STOP_SECONDS_MAX} s after the last client has left: {total}, and {lines} lines in the access log")
        time.sleep(0.1)


def steady(value, changing):
    """The value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(inner, changing) for key, inner in value.items() if key not in changing}
    return [steady(inner, changing) for inner in value] if isinstance(value, list) else value


def differences(one, other, place=""):
    """The places in which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key, "absent"), other.get(key, "absent"), f"{place}/{key}")
    elif one != other:
        yield f"    {place}: {str(one)[:200]}  |  {str(other)[:200]}"


def must_be_equal(what, one, other):
    if found := list(differences(one, other)):
        raise Failure(f"{what} differ in {len(found)} places:\n" + "\n".join(found[:10]))


def look_at_log(name, service, folder):
    """Holds the access log against the list; prints how often each row was hit."""
    expected = check.List((HERE / f"{name}.expected").read_text())
    record = None
    if service.recorded:
        record = [json.loads(line) for line in (folder / "server/record").read_text().splitlines()]
    mistakes = expected.check((folder / "access.log").read_text(), record, CREDENTIALS)
    print(expected.counts())
    if mistakes:
        shown = "\n".join(f"    {mistake}" for mistake in mistakes[: check.SHOWN_MAX])
        raise Failure(f"the access log disagrees with {name}.expected in {len(mistakes)} places:\n{shown}")


def try_service(name, service, tidegate, folder):
    """The whole test of one service."""
    directly, alone = play(service, folder / "directly")
    held, through = play(service, folder / "through", tidegate, name)
    print(f"{name}: {alone:.1f} s directly, {through:.1f} s through tidegate; lines of the access log by row:")
    for where, sides in (("directly", directly), ("through tidegate", held)):
        must_be_equal(f"{where}, the laptop's and the phone's documents", sides["laptop"], sides["phone"])
        must_be_equal(f"{where}, the laptop's and the server's documents", sides["laptop"], sides["server"])
    must_be_equal("the documents directly and through tidegate", steady(directly, service.changing), steady(held, service.changing))
    look_at_log(name, service, folder / "through")


def give_up(number, _):
    """A signal ends everything like a failure does."""
    sys.exit(f"tests/clients: ended by {signal.Signals(number).name}" + (f": {ALL_SECONDS_MAX} s are over" if number == signal.SIGALRM else ""))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tidegate", required=True)
    arguments.add_argument("--node-modules", required=True)
    arguments.add_argument("service", nargs="+")
    given = arguments.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, give_up)
    signal.alarm(ALL_SECONDS_MAX)
    failed = 0
    for name in given.service:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"tidegate-{name}-"))
        try:
            try_service(name, services(given.node_modules)[name], given.tidegate, folder)
        except Failure as failure:
            failed += 1
            print(f"{name}: FAILED: {failure}\n  logs are kept in {folder}", flush=True)
            continue
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)
        print(flush=True)
    print(f"clients: {len(given.service) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
