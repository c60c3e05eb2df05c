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
import itertools
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
START_SECONDS_MAX = 60
SCENARIO_SECONDS_MAX = 200
STOP_SECONDS_MAX = 10
ALL_SECONDS_MAX = 900
PASSWORDS = {"alice": "alice-password", "bob": "bob-password"}
CREDENTIALS = [*PASSWORDS.values(), *(base64.b64encode(f"{user}:{word}".encode()).decode() for user, word in PASSWORDS.items())]

# What a document costs is not this test's subject: on a machine that is busy with other things a slow reply would make a document dear, and
# the log would then rightly say another class. So nothing is dear here, and nothing outlives its class. To these clients tidegate says no more
# than to any other on the internet.
SETTINGS = ('report.expose="none"', "gate.long_cost=10m", "class.noop.long_after=25s", "class.sync.long_after=25s")

# The services here commit within milliseconds, so that two seconds of doubt are enough. No answer is asked again for a sample: what reaches the
# server is counted.
DOUBT_SECONDS = 2
SETTINGS += (f"fresh.doubt={DOUBT_SECONDS}s", "fresh.audit=0")
ON = 'fresh.mode="on"'
BEHIND_CDN = 'listen.trusted_proxies=["127.0.0.1/32"]'
TURNS = tuple(f"the {turn} sync without a change" for turn in ("first", "second", "third"))
SYNCED = "synced"                  # where the scenario is after these
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


@dataclasses.dataclass
class Mark:
    """Where things stood at one moment of a run."""

    lines: int                     # of the access log of the last process
    requests: int                  # that the hop had passed on
    recorded: int                  # requests that the server had written down, if it does
    metrics: dict


class Run:
    """One run of a service's scenario, and what is known of it afterwards: what all sides `held`, and the `seconds` it took.

    With tidegate also `lives`, the access log of each of its processes, and `record`, what the server was asked until the clients had ended.
    `marks` says for each turn of the scenario where the last log and the requests stood at its begin, and what tidegate had counted."""

    def __init__(self, name, service, folder, tidegate=None, on=False):
        self.name, self.service, self.folder, self.tidegate, self.on = name, service, folder, tidegate, on
        self.app, self.front, self.admin, self.outside = free_ports(4)
        self.gate, self.hop, self.gates, self.marks, self.said = None, None, [], {}, []
        self.batches, self.killed, self.again = None, 0, range(0)
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
        # Only at the first start nothing can be in flight.
        settings = [f"log.access={log}", *SETTINGS, f"fresh.start_doubt={DOUBT_SECONDS if number else 0}s"]
        if self.on:
            settings += [ON, BEHIND_CDN] if self.service.cdn else [ON]
        command = [self.tidegate, "run", "--listen", f"127.0.0.1:{self.front}", "--app", f"127.0.0.1:{self.app}",
                   "--admin", f"127.0.0.1:{self.admin}", "--profile", self.name, *(word for key in settings for word in ("--set", key))]
        self.gate = self.running.enter_context(Process(f"tidegate-{number}", command, self.folder))
        self.gates.append((self.gate, log))
        self.gate.wait_until_answers(f"http://127.0.0.1:{self.admin}/readyz")

    def end_tidegate(self):
        """Looks at what is left when the clients have gone, and asks it to end."""
        self.at_rest()
        self.lives = [log.read_text() if log.exists() else "" for _, log in self.gates]
        self.record = self.recorded()
        if self.on:
            # What must_answer_alike has asked is not the clients'.
            lines, end = self.lives[-1].splitlines(keepends=True), self.marks[SYNCED].lines
            self.lives[-1] = "".join(lines[:end] + lines[end + len(self.again) :])
            del (self.record or [])[self.again.start : self.again.stop]
        wrong = self.metrics()["tidegate_fresh_mismatches_total"]
        if wrong:
            raise Failure(f"{wrong:.0f} answers differed without a write between them:\n{self.gate.tail()}")
        if code := self.gate.end():
            raise Failure(f"tidegate ended with {code} after SIGTERM:\n{self.gate.tail()}")

    def recorded(self):
        """What the server was asked until now; None if it does not write that down."""
        record = self.folder / "server/record"
        return [json.loads(line) for line in record.read_text().splitlines()] if self.service.recorded else None

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
        if self.gate and place in (*TURNS, SYNCED):
            self.at_rest()
            if place == TURNS[0]:
                time.sleep(DOUBT_SECONDS + 0.2)
            requests = len(self.hop.requests) if self.on else 0
            self.marks[place] = Mark(len(self.lines()), requests, len(self.recorded() or ()), self.metrics())
            if self.on and place == SYNCED:
                self.must_answer_alike()
                self.at_rest()

    def lines(self):
        """The lines of the last access log."""
        return self.gates[-1][1].read_text().splitlines()

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
        """The sum over each metric's labels, and over all but `result`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        total = collections.Counter()
        for name, labels, value in re.findall(r"^(\w+)(?:\{([^}]*)\})? (\S+)", text, re.MULTILINE):
            total[name] += float(value)
            if result := re.search(r'\bresult="(\w+)"', labels):
                total[f"{name} {result[1]}"] += float(value)
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
        begin, end = self.marks[TURNS[-1]], self.marks[SYNCED]
        lines = map(json.loads, self.lines()[begin.lines : end.lines])
        own = {(line["method"], line["path"]) for line in lines if line["outcome"] == "fresh"}
        asked = {}
        for request in self.hop.requests[begin.requests : end.requests]:
            if (request.method, request.target.partition("?")[0]) in own:
                asked[request.method, request.target, tuple(request.fields), request.body] = request
        wrong, begun = [], len(self.recorded() or ())
        for request in asked.values():
            directly, here = ask(self.app, request), ask(self.outside, request)
            what = f"{request.method} {request.target}"
            if "tidegate; hit" not in here["fields"].get("cache-status", []):
                wrong.append(f"    {what}: not answered by tidegate: {here['fields'].get('cache-status')}")
            wrong += (f"    {what}{line.strip()}" for line in differences(comparable(directly), comparable(here)))
        self.again = range(begun, begun + len(asked))
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
            fields[name.lower()].append(value.strip())
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
    expected = check.List((HERE / f"{run.name}.expected").read_text(), own=check.OWN if run.on else ())
    mistakes = []
    for life in run.lives[:-1]:
        mistakes += expected.check_part(life[: life.rfind("\n") + 1], CREDENTIALS)
    last = run.lives[-1]
    mistakes += expected.check_part(last, CREDENTIALS) if run.killed else expected.check(last, run.record, CREDENTIALS)
    print(expected.counts())
    if mistakes:
        shown = "\n".join(f"    {mistake}" for mistake in mistakes[: check.SHOWN_MAX])
        raise Failure(f"the access log disagrees with {run.name}.expected in {len(mistakes)} places:\n{shown}")


def polls(run):
    """The polls of each turn without a change, and of the whole run: the lines of the routes whose answers may be tidegate's."""
    with open(HERE / f"../../config/profiles/{run.name}.toml", "rb") as file:
        answered = {route["name"] for route in tomllib.load(file)["route"] if "answer" in route}
    lines = [[json.loads(line) for line in life[: life.rfind("\n") + 1].splitlines()] for life in run.lives]
    turns = [lines[-1][run.marks[turn].lines : run.marks[end].lines] for turn, end in zip(TURNS, (*TURNS[1:], SYNCED))]
    return [[line for line in some if line["route"] in answered] for some in (*turns, itertools.chain(*lines))]


def look_at_hits(run):
    """From the second sync without a change on, every poll must be answered by tidegate."""
    *turns, everything = polls(run)
    for turn, asked in zip(TURNS, turns):
        missed = [line for line in asked if line["outcome"] != "fresh"]
        print(f"  {turn}: {len(asked) - len(missed)} of {len(asked)} polls answered by tidegate")
        if turn != TURNS[0] and (missed or not asked):
            shown = "\n".join(f"    {check.about(line)} {line['route']}: {line['outcome']}" for line in missed[: check.SHOWN_MAX])
            raise Failure(f"{turn}: put to the server, although nothing has changed:\n{shown}")
    begin, end = run.marks[TURNS[1]], run.marks[SYNCED]
    put = sum(json.loads(line)["outcome"] not in check.OWN for line in run.lives[-1].splitlines()[begin.lines : end.lines])
    if run.service.recorded and end.recorded - begin.recorded != put:
        raise Failure(f"the server was asked {end.recorded - begin.recorded} times from {TURNS[1]} on, not {put} times")
    own = sum(line["outcome"] in check.OWN for line in everything)
    print(f"  in all: {own} of {len(everything)} polls; {len(run.again)} questions answered as by the server, byte for byte")


def look_at_verification(run):
    """What tidegate would have answered itself, it must have found right, and from the second sync without a change on that is every poll."""
    begin, end = run.marks[TURNS[1]].metrics, run.marks[SYNCED].metrics
    right, wrong, unjudged = (f"tidegate_fresh_verified_total {result}" for result in ("right", "wrong", "unjudged"))
    asked = sum(map(len, polls(run)[1:-1]))
    print(f"  found right: {end[right]:.0f} in all, {end[right] - begin[right]:.0f} of the {asked} polls from the second sync without a change on")
    if end[wrong] or end[unjudged] != begin[unjudged] or end[right] - begin[right] != asked or not asked:
        counted = {result: end[result] - begin[result] for result in (right, unjudged)}
        raise Failure(f"of {asked} polls: {counted}; wrong in all: {end[wrong]:.0f}")


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
    print("as it is shipped, where answers are only verified:")
    look_at_verification(through)
    print("with local answers:")
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
