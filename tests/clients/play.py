"""Plays each service's scenario three times, straight to the server, through tidegate as it is shipped, and with local answers switched on, and
compares what all sides hold in the end.

    play.py --tidegate FILE --node-modules FOLDER SERVICE...

Started by `run`, which installs what is needed. Every process that is started here ends here, also after a failure or a signal.
"""

import argparse
import base64
import collections
import contextlib
import dataclasses
import http.client
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
import threading
import time
import tomllib
import urllib.error
import urllib.request

import check
from hop import Hop

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

# The services here commit within milliseconds, so that two seconds of doubt are enough. No answer is asked again for a sample: what reaches the
# server is counted.
DOUBT_SECONDS = 2
ON = ('fresh.mode="on"', f"fresh.doubt={DOUBT_SECONDS}s", f"fresh.start_doubt={DOUBT_SECONDS}s", "fresh.audit=0")
OWN = ("fresh", "joined")          # outcomes of requests that were not put to the server
TURNS = tuple(f"the {turn} sync without a change" for turn in ("first", "second", "third"))
KILLED_AT = (2, 5, 8)              # writes of a batch, counted from the interruptions' begin, during which tidegate is killed

# What belongs to one connection or to one moment, and what tidegate says of itself: in this the same answer may differ from itself.
PASSING = {"connection", "keep-alive", "transfer-encoding", "date", "cache-status", "content-length"}

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
    cdn: bool = False              # whether a CDN stands in front in the run with local answers
    kills: bool = False            # whether tidegate is killed in that run


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
        "couchdb": Service(couchdb, ["node", HERE / "couchdb/clients.js"], recorded=True, kills=True),
        "kinto": Service(kinto, [python, HERE / "kinto/clients.py"], changing=frozenset({"last_modified"}), cdn=True),
        "caldav": Service(caldav, [python, HERE / "caldav/clients.py"], cdn=True),
    }


class Process:
    """A process in a group of its own, with a log; ends with the `with` block. One that talks is heard and answered through its pipes."""

    def __init__(self, name, command, folder, talks=False):
        self.name, self.log = name, folder / f"{name}.log"
        with open(self.log, "wb") as log:
            ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if talks else {"stdin": subprocess.DEVNULL, "stdout": log}
            self.process = subprocess.Popen([str(word) for word in command], cwd=folder, stderr=log, start_new_session=True, **ways)

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


class Run:
    """One run of a service's scenario, and what is known of it afterwards: what all sides `held`, and the `seconds` it took.

    With tidegate also `lives`, the access log of each of its processes; with local answers also `marks`, where the last of them stood when the
    scenario was at each of its places, and `record`, what the server was asked until the clients had ended."""

    def __init__(self, name, service, folder, tidegate=None, on=False):
        self.name, self.service, self.folder, self.tidegate, self.on = name, service, folder, tidegate, on
        self.app, self.front, self.admin, self.outside = free_ports(4)
        self.gate, self.hop, self.gates, self.marks, self.said = None, None, [], {}, []
        self.batches, self.killed = None, 0
        self.between = threading.Lock()   # held while there is no tidegate

    def play(self):
        server_folder, clients_folder = self.folder / "server", self.folder / "clients"
        server_folder.mkdir(parents=True)
        clients_folder.mkdir()
        with contextlib.ExitStack() as self.running:
            self.server = self.running.enter_context(Process("server", self.service.server(self.app, server_folder), server_folder))
            self.server.wait_until_answers(f"http://127.0.0.1:{self.app}/")
            with contextlib.suppress(FileNotFoundError):
                (server_folder / "record").unlink()
            address = self.app
            if self.tidegate:
                self.start_tidegate()
                address = self.front
            if self.on:
                self.hop = self.running.enter_context(Hop(self.outside, self.front, self.service.cdn, self.sent))
                address = self.outside
            begun = time.monotonic()
            command = [*self.service.clients, f"127.0.0.1:{address}", self.folder / "held"]
            self.clients = self.running.enter_context(Process("clients", command, clients_folder, talks=True))
            self.follow()
            self.seconds = time.monotonic() - begun
            self.held = json.loads((self.folder / "held").read_text())
            if self.gate:
                self.end_tidegate()
        return self

    def start_tidegate(self):
        """A process of tidegate, always on the same ports, each with an access log of its own."""
        number = len(self.gates)
        log = self.folder / f"access-{number}.log"
        settings = [f"log.access={log}", *SETTINGS, *(ON if self.on else ())]
        command = [self.tidegate, "run", "--listen", f"127.0.0.1:{self.front}", "--app", f"127.0.0.1:{self.app}",
                   "--admin", f"127.0.0.1:{self.admin}", "--profile", self.name, *(word for key in settings for word in ("--set", key))]
        self.gate = self.running.enter_context(Process(f"tidegate-{number}", command, self.folder))
        self.gates.append((self.gate, log))
        self.gate.wait_until_answers(f"http://127.0.0.1:{self.admin}/readyz")

    def end_tidegate(self):
        """Looks at what is left when the clients have gone, and asks it to end."""
        self.at_rest()
        self.lives = [log.read_text() if log.exists() else "" for _, log in self.gates]
        record = self.folder / "server/record"
        self.record = [json.loads(line) for line in record.read_text().splitlines()] if self.service.recorded else None
        wrong = self.metrics()["tidegate_fresh_mismatches_total"]
        if wrong:
            raise Failure(f"{wrong:.0f} answers differed without a write between them:\n{self.gate.tail()}")
        if self.on:
            self.must_answer_alike()
        if code := self.gate.end():
            raise Failure(f"tidegate ended with {code} after SIGTERM:\n{self.gate.tail()}")

    def follow(self):
        """Lets the scenario go on from place to place, until it ends."""
        watch = threading.Timer(SCENARIO_SECONDS_MAX, self.clients.stop)
        watch.start()
        for line in self.clients.process.stdout:
            self.at(line.decode().strip())
            self.clients.process.stdin.write(b"go on\n")
            self.clients.process.stdin.flush()
        watch.cancel()
        if code := self.clients.wait(STOP_SECONDS_MAX):
            logs = "".join(f"\n  tidegate's log:\n{gate.tail()}" for gate, _ in self.gates)
            raise Failure(f"the clients ended with {code}:\n{self.clients.tail()}\n  the server's log:\n{self.server.tail()}{logs}")

    def at(self, place):
        """What is to be done when the scenario is there."""
        self.said.append(place)
        if place == "interruptions":
            self.batches = 0
        if self.on and place in TURNS:
            self.at_rest()
            if place == TURNS[0]:
                time.sleep(DOUBT_SECONDS + 0.2)
            self.marks[place] = len(self.gates[-1][1].read_text().splitlines())

    def sent(self, request):
        """Kills tidegate as soon as it has some of the writes of the interruptions, and starts it again."""
        if self.batches is None or not self.service.kills or not request.target.endswith("/_bulk_docs"):
            return
        with self.between:
            self.batches += 1
            if self.batches in KILLED_AT:
                time.sleep(0.002 * self.killed)
                os.kill(self.gate.process.pid, signal.SIGKILL)
                self.gate.wait(STOP_SECONDS_MAX)
                self.killed += 1
                self.start_tidegate()

    def metrics(self):
        """The sum over each metric's labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        total = collections.Counter()
        for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)", text, re.MULTILINE):
            total[name] += float(value)
        return total

    def at_rest(self):
        """Between two requests nothing may be in flight or waiting, and every request that was counted must stand in the log, no other."""
        deadline = time.monotonic() + STOP_SECONDS_MAX
        log = self.gates[-1][1]
        while True:
            metrics = self.metrics()
            total = {name: metrics[name] for name in ("tidegate_requests_total", "tidegate_in_flight", "tidegate_queued")}
            lines = len(log.read_text().splitlines()) if log.exists() else 0
            if total == {"tidegate_requests_total": lines, "tidegate_in_flight": 0, "tidegate_queued": 0} and lines:
                return
            if time.monotonic() > deadline:
                raise Failure(f"{STOP_SECONDS_MAX} s after the last request: {total}, and {lines} lines in the access log")
            time.sleep(0.02)

    def must_answer_alike(self):
        """Puts each question that tidegate has answered itself once more, to it and straight to the server: the answers must be the same."""
        lines = [json.loads(line) for line in self.lives[-1].splitlines()[self.marks[TURNS[-1]] :]]
        own = {(line["method"], line["path"]) for line in lines if line["outcome"] == "fresh"}
        asked = {}
        for request in self.hop.requests[-len(lines) :]:
            if (request.method, request.target.partition("?")[0]) in own:
                asked[request.method, request.target, tuple(request.fields), request.body] = request
        wrong = []
        for request in asked.values():
            directly, here = ask(self.app, request), ask(self.outside, request)
            what = f"{request.method} {request.target}"
            if "tidegate; hit" not in here["fields"].get("cache-status", []):
                wrong.append(f"    {what}: not answered by tidegate: {here['fields'].get('cache-status')}")
            wrong += (f"    {what}{line.strip()}" for line in differences(comparable(directly), comparable(here)))
        if wrong or not asked:
            raise Failure(f"of {len(asked)} questions put to tidegate and to the server:\n" + "\n".join(wrong[:10]))
        self.alike = len(asked)


def ask(port, request):
    """The answer to the request, sent once more as it was."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.fields:
            connection.putheader(name, value)
        connection.endheaders(request.body)
        reply = connection.getresponse()
        body = reply.read()
        fields = collections.defaultdict(list)
        for name, value in reply.getheaders():
            fields[name.lower()].append(value)
        return {"status": reply.status, "reason": reply.reason, "fields": dict(fields), "body": body}


def comparable(answer):
    """The answer without what belongs to one connection or moment. The length of a body is seen in the body; where there is none it counts."""
    dropped = PASSING - (set() if answer["body"] else {"content-length"})
    return {**answer, "fields": {name: values for name, values in answer["fields"].items() if name not in dropped}}


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


def look_at_log(run):
    """Holds the access log against the list; prints how often each row was hit."""
    expected = check.List((HERE / f"{run.name}.expected").read_text(), own=OWN if run.on else ())
    mistakes = []
    for life in run.lives[:-1]:
        mistakes += expected.check_part(life[: life.rfind("\n") + 1], CREDENTIALS)
    last = run.lives[-1]
    mistakes += expected.check_part(last, CREDENTIALS) if run.killed else expected.check(last, run.record, CREDENTIALS)
    print(expected.counts())
    if mistakes:
        shown = "\n".join(f"    {mistake}" for mistake in mistakes[: check.SHOWN_MAX])
        raise Failure(f"the access log disagrees with {run.name}.expected in {len(mistakes)} places:\n{shown}")


def look_at_hits(run):
    """From the second sync without a change on, every poll must be answered by tidegate."""
    with open(HERE / f"../../config/profiles/{run.name}.toml", "rb") as file:
        answered = {route["name"] for route in tomllib.load(file)["route"] if "answer" in route}
    lines = [json.loads(line) for line in run.lives[-1].splitlines()]
    for turn, begin, end in zip(TURNS, map(run.marks.get, TURNS), [*map(run.marks.get, TURNS[1:]), None]):
        polls = [line for line in lines[begin:end] if line["route"] in answered]
        missed = [line for line in polls if line["outcome"] != "fresh"]
        print(f"  {turn}: {len(polls) - len(missed)} of {len(polls)} polls answered by tidegate, {len(lines[begin:end]) - len(polls)} other requests")
        if turn != TURNS[0] and (missed or not polls):
            shown = "\n".join(f"    {check.about(line)} {line['route']}: {line['outcome']}" for line in missed[: check.SHOWN_MAX])
            raise Failure(f"{turn}: put to the server, although nothing has changed:\n{shown}")
    everything = [json.loads(line) for life in run.lives for line in life[: life.rfind("\n") + 1].splitlines()]
    polls = [line["outcome"] for line in everything if line["route"] in answered]
    print(f"  in all: {sum(outcome in OWN for outcome in polls)} of {len(polls)} polls; {run.alike} questions answered byte for byte as by the server")


def look_at_interruptions(run):
    """Only where tidegate was killed may a sync have failed, and there it must have."""
    failed = next((int(place.split()[0]) for place in run.said if place.endswith("syncs failed")), 0)
    expected = len(KILLED_AT) if run.on and run.service.kills else 0
    if run.killed != expected or bool(failed) != bool(expected):
        raise Failure(f"tidegate was killed {run.killed} times, not {expected}, and {failed} syncs failed")
    if expected:
        print(f"  tidegate killed {run.killed} times during a write; {failed} syncs failed and were begun again")


def try_service(name, service, tidegate, folder):
    """The whole test of one service."""
    directly = Run(name, service, folder / "directly").play()
    through = Run(name, service, folder / "through", tidegate).play()
    on = Run(name, service, folder / "on", tidegate, on=True).play()
    print(f"{name}: {directly.seconds:.1f} s directly, {through.seconds:.1f} s through tidegate, {on.seconds:.1f} s with local answers")
    for where, run in (("directly", directly), ("through tidegate", through), ("with local answers", on)):
        must_be_equal(f"{where}, the laptop's and the phone's documents", run.held["laptop"], run.held["phone"])
        must_be_equal(f"{where}, the laptop's and the server's documents", run.held["laptop"], run.held["server"])
        must_be_equal(f"the documents directly and {where}", steady(directly.held, service.changing), steady(run.held, service.changing))
        look_at_interruptions(run)
    for where, run in (("through tidegate", through), ("with local answers", on)):
        print(f"lines of the access log by row, {where}:")
        look_at_log(run)
    look_at_hits(on)


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
