#!/usr/bin/env python3
"""Holds an access log of tidegate against a list of what each request is, written by hand.

    check.py LIST LOG [--record FILE] [--secret TEXT]...

The list is TOML. `clients` says how many clients the log must tell apart. Each `[[row]]` says what requests of one method and path are:

    method     the method
    path       a template: {name} is one segment that does not begin with `_` (CouchDB keeps such names for itself), {name*} is any number of
               segments, also none; everything else stands for itself. Segments are percent-decoded.
    route, class, effect
               what the log must say
    documents  the scopes that the log must name, in any order. {name} stands for what the path had there, {any} for any one segment; each entry
               must be found, and each scope that is found must be in the list. "*" alone is everything.
    when       conditions on the line, where a path has several routes: { bytes_in = { over = 1000 } }, at_most, a value, or a list of values
    status     the statuses that may be there; else any that is not a fault (5xx, 429)
    outcome    the outcomes that may be there; else "forwarded"
    times      how many lines must agree with the row, where the scenario fixes it
    asked      what the query must hold, by the app's own record of the same requests (--record; JSON lines with `method` and `target`): as many
               lines must agree with the row and say that the app was asked as the record has requests of this method, path and
               query. { feed = ["longpoll"] }; [] is absent
    optional   true: the row need not be hit

Every line must agree with exactly one row and every row must be hit. Nothing but the standard library is needed.
"""

import argparse
import collections
import datetime
import json
import re
import sys
import tomllib
import urllib.parse

TEXTS = ("time", "id", "client", "method", "path", "route", "class", "effect", "outcome")
NUMBERS = ("status", "wait_ms", "total_ms", "bytes_in", "bytes_out")
MAYBE_NUMBERS = ("app_ms", "db_ms")
OWN = ("fresh", "joined")  # outcomes of polls that were not put to the app themselves, and so waited for no seat
LEFT = ("gone",)  # outcomes of a client that left first, maybe before there was a status
ROW_KEYS = {"method", "path", "route", "class", "effect", "documents", "when", "status", "outcome", "times", "asked", "optional"}
COMPARED = ("route", "class", "effect")
SHOWN_MAX = 20


class Mistake(Exception):
    """The list itself cannot be used."""


def template(text):
    """A regular expression over a decoded path, with a group for each name."""
    parts = []
    for segment in text.removeprefix("/").split("/"):
        if found := re.fullmatch(r"\{(\w+)\*\}", segment):
            parts.append(rf"(?P<{found[1]}>(?:/[^/]*)*)")
        elif found := re.fullmatch(r"\{(\w+)\}", segment):
            parts.append(rf"/(?P<{found[1]}>[^/_][^/]*)")
        else:
            parts.append("/" + re.escape(segment))
    return re.compile("".join(parts))


def scope(text, names):
    """A regular expression for one entry of `documents`, given what the path had for its names."""
    def fill(found):
        if found[1] == "any":
            return "[^/]+"
        if found[1] not in names:
            raise Mistake(f"documents: {text!r} uses {{{found[1]}}}, which the path does not have")
        return re.escape(names[found[1]].strip("/"))
    pieces = re.split(r"(\{\w+\})", text)
    return re.compile("".join(re.sub(r"\{(\w+)\}", fill, piece) if piece.startswith("{") else re.escape(piece) for piece in pieces))


def holds(test, value):
    """Whether a condition holds for a value."""
    if isinstance(test, dict):
        comparisons = {"over": lambda bound: value > bound, "at_most": lambda bound: value <= bound}
        return all(comparisons[name](bound) for name, bound in test.items())
    return value in test if isinstance(test, list) else value == test


class Row:
    """One entry of the list."""

    def __init__(self, number, table):
        if unknown := set(table) - ROW_KEYS:
            raise Mistake(f"row {number}: unknown key {sorted(unknown)}")
        if missing := {"method", "path", "documents", *COMPARED} - set(table):
            raise Mistake(f"row {number}: {sorted(missing)} is missing")
        self.table, self.template, self.hits, self.asked = table, template(table["path"]), 0, 0
        condition = json.dumps({**table.get("when", {}), **table.get("asked", {})}).translate(str.maketrans("", "", '{}":'))
        self.name = f"{table['method']} {table['path']}" + (f" ({condition})" if condition else "")

    def names(self, method, path):
        """What the path has for the template's names; None if it is not this row's."""
        found = self.template.fullmatch(path) if method == self.table["method"] else None
        return found and found.groupdict()

    def concerns(self, line):
        """Whether the row is about requests like this one."""
        if self.names(line["method"], decoded(line["path"])) is None:
            return False
        return all(holds(test, line[field]) for field, test in self.table.get("when", {}).items())

    def differences(self, line, own=()):
        """In what the line is not as the row says; a poll's outcome may also be one of `own`."""
        found = [f"{field} is {line[field]!r}, not {self.table[field]!r}" for field in COMPARED if line[field] != self.table[field]]
        names = self.names(line["method"], decoded(line["path"]))
        wanted = {text: scope(text, names) for text in self.table["documents"]}
        shown = line["documents"]
        found += [f"documents lack {text!r}" for text, pattern in wanted.items() if not any(map(pattern.fullmatch, shown))]
        found += [f"documents hold {text!r}" for text in shown if not any(pattern.fullmatch(text) for pattern in wanted.values())]
        if "status" in self.table and line["status"] not in self.table["status"]:
            found.append(f"status is {line['status']}, not one of {self.table['status']}")
        if line["outcome"] not in [*self.table.get("outcome", ["forwarded"]), *(own if self.table["effect"] == "poll" else ())]:
            found.append(f"outcome is {line['outcome']!r}")
        return found

    def asks(self, request):
        """Whether a request of the app's record is one of this row's."""
        path, _, query = request["target"].partition("?")
        if self.names(request["method"], decoded(path)) is None:
            return False
        values = urllib.parse.parse_qs(query, keep_blank_values=True)
        return all(values.get(key, []) == wanted for key, wanted in self.table["asked"].items())


def decoded(path):
    return "/".join(urllib.parse.unquote(segment) for segment in path.split("/"))


def malformed(line):
    """What is wrong with the line whatever it was for."""
    if not isinstance(line, dict):
        return ["not a JSON object"]
    found = [f"{field} is not a text" for field in TEXTS if not isinstance(line.get(field), str) or not line[field]]
    missing = {"status": LEFT, "wait_ms": OWN}
    may_be_null = (*MAYBE_NUMBERS, *(field for field, outcomes in missing.items() if line.get("outcome") in outcomes))
    for field in NUMBERS + MAYBE_NUMBERS:
        value = line.get(field)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
        if not is_number and not (field in line and value is None and field in may_be_null):
            found.append(f"{field} is not a number")
    if not isinstance(line.get("documents"), list) or not all(isinstance(text, str) for text in line["documents"]):
        found.append("documents is not a list of texts")
    if "rule" not in line:
        found.append("rule is not there")
    if found:
        return found
    try:
        datetime.datetime.fromisoformat(line["time"])
    except ValueError:
        found.append("time is not of RFC 3339")
    if line["route"] == "unmatched":
        found.append("no route matched")
    if line["rule"]:
        found.append(f"refused by {line['rule']}")
    if line["status"] is not None and (line["status"] >= 500 or line["status"] == 429):
        found.append(f"status {line['status']}")
    if "?" in line["path"]:
        found.append("the path holds the query")
    return found


class List:
    """A list, and what of it was seen. `own` are the outcomes of polls that were not put to the app; with it as it is shipped there are none."""

    def __init__(self, text, own=()):
        self.own = own
        table = tomllib.loads(text)
        if unknown := set(table) - {"clients", "row"}:
            raise Mistake(f"unknown key {sorted(unknown)}")
        self.rows = [Row(number, row) for number, row in enumerate(table["row"], 1)]
        self.clients = table["clients"]

    def check_line(self, line):
        """What is wrong with one line; counts the row that it agrees with."""
        if found := malformed(line):
            return found
        concerned = [row for row in self.rows if row.concerns(line)]
        if not concerned:
            return ["no row is about it"]
        differences = {row: row.differences(line, self.own) for row in concerned}
        agreeing = [row for row, found in differences.items() if not found]
        if len(agreeing) == 1:
            agreeing[0].hits += 1
            agreeing[0].asked += line["outcome"] not in self.own
            return []
        if agreeing:
            return [f"agrees with several rows: {', '.join(row.name for row in agreeing)}"]
        return [f"by row {row.name} -> {row.table['route']}: {'; '.join(found)}" for row, found in differences.items()]

    def check_part(self, text, secrets=()):
        """What is wrong with each line of a log that is not the whole."""
        return self.check_lines(text, secrets)[0]

    def check(self, text, record=None, secrets=()):
        """Everything that is wrong with a log."""
        mistakes, clients = self.check_lines(text, secrets)
        if len(clients) != self.clients:
            mistakes.append(f"{len(clients)} clients are told apart, not {self.clients}")
        return mistakes + self.check_counts(record)

    def check_lines(self, text, secrets):
        """What is wrong with each line, and the clients that the lines tell apart."""
        mistakes, clients, identities = [], set(), collections.Counter()
        for number, written in enumerate(text.splitlines(), 1):
            try:
                line = json.loads(written)
            except ValueError as error:
                mistakes.append(f"line {number}: not JSON: {error}")
                continue
            found = self.check_line(line)
            found += ["holds a credential" for secret in secrets if secret in written]
            mistakes += [f"line {number}: {about(line)}: {what}" for what in found]
            if isinstance(line, dict):
                clients.add(line.get("client"))
                identities[line.get("id")] += 1
        mistakes += [f"id {identity!r} is there {count} times" for identity, count in identities.items() if count > 1]
        return mistakes, clients

    def check_counts(self, record):
        """What is wrong with how often each row was hit."""
        mistakes = []
        for row in self.rows:
            if not row.hits and not row.table.get("optional"):
                mistakes.append(f"row {row.name} -> {row.table['route']}: no line agrees with it")
            elif row.hits != row.table.get("times", row.hits):
                mistakes.append(f"row {row.name} -> {row.table['route']}: {row.hits} lines agree with it, not {row.table['times']}")
            if "asked" in row.table and record is not None:
                asked = sum(map(row.asks, record))
                if asked != row.asked:
                    what = f"{row.asked} lines say that the app was asked, but it was asked {asked} times"
                    mistakes.append(f"row {row.name} -> {row.table['route']}: {what}")
        return mistakes

    def counts(self):
        """A table of how often each row was hit."""
        width = max(len(row.name) for row in self.rows)
        return "\n".join(
            f"{row.hits:6}  {row.name:{width}}  {row.table['route']}, {row.table['class']}, {row.table['effect']} {' '.join(row.table['documents'])}".rstrip()
            for row in self.rows
        )


def about(line):
    return f"{line.get('method')} {line.get('path')} [{line.get('status')}]" if isinstance(line, dict) else "?"


def main():
    arguments = argparse.ArgumentParser(description="Holds an access log against a list written by hand.")
    arguments.add_argument("list")
    arguments.add_argument("log")
    arguments.add_argument("--record", help="the app's own record of the requests, JSON lines")
    arguments.add_argument("--secret", action="append", default=[], help="a text that must not stand in the log")
    given = arguments.parse_args()
    record = None
    if given.record:
        with open(given.record, encoding="utf-8") as file:
            record = [json.loads(line) for line in file]
    with open(given.list, encoding="utf-8") as rows, open(given.log, encoding="utf-8") as log:
        expected, text = List(rows.read()), log.read()
    mistakes = expected.check(text, record, given.secret)
    print(expected.counts())
    for mistake in mistakes[:SHOWN_MAX]:
        print(f"  {mistake}", file=sys.stderr)
    if mistakes:
        sys.exit(f"{given.log}: {len(mistakes)} mistakes" + (f", of which {SHOWN_MAX} are shown" if len(mistakes) > SHOWN_MAX else ""))


if __name__ == "__main__":
    main()
