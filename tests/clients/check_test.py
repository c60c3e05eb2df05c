#!/usr/bin/env python3
"""The checker must accept what a list says and nothing else: for each row of each list beside it, a line that agrees with it is made, and
then spoilt in one place after the other."""

import copy
import json
import pathlib
import re
import tomllib
import unittest

import check

HERE = pathlib.Path(__file__).parent
LISTS = sorted(HERE.glob("*.expected"))


def filled(text, **names):
    """The template with its names replaced."""
    def fill(found):
        return names.get(found[1], f"some-{found[1]}")
    return re.sub(r"\{(\w+)\*?\}", fill, text)


def a_line(table, number):
    """A line of the log that agrees with the row."""
    line = {
        "time": "2030-01-07T09:00:00.123Z", "id": f"id-{number}", "client": "c", "method": table["method"], "path": filled(table["path"]),
        "route": table["route"], "class": table["class"], "documents": [filled(text) for text in table["documents"]], "effect": table["effect"],
        "outcome": table.get("outcome", ["forwarded"])[0], "rule": None, "status": table.get("status", [200])[0], "wait_ms": 0, "app_ms": 1.5,
        "db_ms": None, "total_ms": 2, "bytes_in": 10, "bytes_out": 20,
    }
    for field, test in table.get("when", {}).items():
        line[field] = test["over"] + 1 if "over" in test else test["at_most"]
    return line


def spoilt(line):
    """The line, spoilt in one place after the other."""
    for field in line:
        yield f"no {field}", {key: value for key, value in line.items() if key != field}
    changes = {
        "time": "yesterday", "method": "BREW", "path": "/an/other/path/that/no/row/is/about", "route": "unmatched", "class": "large",
        "effect": "read" if line["effect"] != "read" else "write", "outcome": "refused", "rule": "deadline", "status": 503, "wait_ms": -1,
        "total_ms": "2", "bytes_in": None, "documents": [*line["documents"], "*" if "*" not in line["documents"] else "db:x"], "client": "",
    }
    for field, value in changes.items():
        yield f"{field} = {value!r}", {**line, field: value}
    yield "path with a query", {**line, "path": line["path"] + "?since=1"}
    yield "an unknown route", {**line, "route": "nobody's"}
    yield "a failure", {**line, "outcome": "failed", "status": 502}
    if line["documents"]:
        yield "no documents", {**line, "documents": []}
        yield "another document", {**line, "documents": [line["documents"][0] + "/x", *line["documents"][1:]]}


class EveryRowOfEveryList(unittest.TestCase):
    def setUp(self):
        self.assertEqual([path.stem for path in LISTS], ["caldav", "couchdb", "kinto"])

    def lists(self):
        for path in LISTS:
            text = path.read_text(encoding="utf-8")
            yield path.stem, text, tomllib.loads(text)

    def test_a_line_that_a_row_describes_agrees_with_that_row_alone(self):
        for name, text, table in self.lists():
            expected = check.List(text)
            for number, row in enumerate(table["row"]):
                with self.subTest(list=name, row=number):
                    self.assertEqual(expected.check_line(a_line(row, number)), [])
                    self.assertEqual(expected.rows[number].hits, 1)

    def test_a_line_that_was_tampered_with_fails(self):
        for name, text, table in self.lists():
            expected = check.List(text)
            for number, row in enumerate(table["row"]):
                for what, line in spoilt(a_line(row, number)):
                    with self.subTest(list=name, row=number, what=what):
                        self.assertNotEqual(expected.check_line(line), [])

    def test_a_whole_log_passes_and_lacks_nothing(self):
        for name, text, table in self.lists():
            lines = [a_line(row, f"{number}-{turn}") for number, row in enumerate(table["row"]) for turn in range(row.get("times", 1))]
            for number, line in enumerate(lines):
                line["client"] = f"c{number % table['clients']}"
            log = "\n".join(map(json.dumps, lines))
            with self.subTest(list=name):
                self.assertEqual(check.List(text).check(log), [])
            for missing, row in enumerate(table["row"]):
                fewer = [line for line in lines if not line["id"].startswith(f"id-{missing}-")]
                with self.subTest(list=name, missing=missing):
                    self.assertNotEqual(check.List(text).check("\n".join(map(json.dumps, fewer))), [])
                if "times" in row:
                    twice = [*lines, {**next(line for line in lines if line["id"] == f"id-{missing}-0"), "id": "another"}]
                    with self.subTest(list=name, twice=missing):
                        self.assertNotEqual(check.List(text).check("\n".join(map(json.dumps, twice))), [])


POLL_AND_FEED = """
clients = 1
[[row]]
method = "GET"
path = "/{db}/_changes"
asked = { feed = [] }
route = "poll"
class = "noop"
effect = "poll"
documents = ["db:{db}"]
[[row]]
method = "GET"
path = "/{db}/_changes"
asked = { feed = ["longpoll"] }
route = "feed"
class = "sync"
effect = "none"
documents = []
"""


class TheWholeLog(unittest.TestCase):
    def setUp(self):
        self.rows = tomllib.loads(POLL_AND_FEED)["row"]
        self.lines = [a_line(self.rows[0], 0), a_line(self.rows[1], 1)]
        self.record = [{"method": "GET", "target": "/some-db/_changes?since=3"}, {"method": "GET", "target": "/some-db/_changes?feed=longpoll"}]

    def mistakes(self, lines, **given):
        return check.List(POLL_AND_FEED).check("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), **given)

    def test_requests_that_only_the_query_tells_apart_are_counted_by_the_apps_record(self):
        self.assertEqual(self.mistakes(self.lines, record=self.record), [])
        taken_for_a_poll = {**a_line(self.rows[0], 2)}
        self.assertNotEqual(self.mistakes([*self.lines, taken_for_a_poll], record=[*self.record, self.record[1]]), [])

    def test_a_credential_in_the_log_is_found(self):
        self.assertEqual(self.mistakes(self.lines, secrets=["hunter2"]), [])
        self.assertNotEqual(self.mistakes([{**self.lines[0], "client": "alice:hunter2"}, self.lines[1]], secrets=["hunter2"]), [])

    def test_a_line_that_is_cut_or_written_twice_is_found(self):
        self.assertNotEqual(self.mistakes([*self.lines, json.dumps(self.lines[0])[:-5]]), [])
        self.assertNotEqual(self.mistakes([*self.lines, self.lines[0]]), [])
        self.assertNotEqual(self.mistakes([*self.lines, "[]"]), [])

    def test_clients_that_are_not_told_apart_are_found(self):
        second = {**copy.deepcopy(self.lines[1]), "client": "somebody else"}
        self.assertNotEqual(self.mistakes([self.lines[0], second]), [])

    def test_only_a_client_that_left_may_have_no_status(self):
        silent = {**self.lines[0], "status": None}
        self.assertNotEqual(self.mistakes([silent, self.lines[1]]), [])
        rows = POLL_AND_FEED.replace('route = "poll"', 'outcome = ["gone"]\nroute = "poll"')
        self.assertEqual(check.List(rows).check_line({**silent, "outcome": "gone"}), [])

    def test_a_poll_that_was_not_put_to_the_app_is_no_mistake_where_local_answers_are_on(self):
        own = {**self.lines[0], "outcome": "fresh", "wait_ms": None, "app_ms": None}
        log = "\n".join(map(json.dumps, [own, self.lines[1]]))
        self.assertNotEqual(check.List(POLL_AND_FEED).check(log), [])
        self.assertEqual(check.List(POLL_AND_FEED, check.OWN).check(log, self.record[1:]), [])
        self.assertNotEqual(check.List(POLL_AND_FEED, check.OWN).check(log, self.record), [])
        feed = {**self.lines[1], "outcome": "fresh", "wait_ms": None}
        self.assertNotEqual(check.List(POLL_AND_FEED, check.OWN).check_line(feed), [])
        self.assertNotEqual(check.List(POLL_AND_FEED, check.OWN).check_line({**self.lines[0], "wait_ms": None}), [])

    def test_of_a_part_of_a_log_only_the_lines_are_looked_at(self):
        part = json.dumps(self.lines[0])
        self.assertEqual(check.List(POLL_AND_FEED).check_part(part), [])
        self.assertNotEqual(check.List(POLL_AND_FEED).check_part(part, ["some-db"]), [])
        self.assertNotEqual(check.List(POLL_AND_FEED).check_part(json.dumps({**self.lines[0], "class": "large"})), [])

    def test_rows_that_both_describe_a_line_are_a_mistake(self):
        twice = POLL_AND_FEED.replace('route = "feed"', 'route = "poll"').replace('"sync"', '"noop"').replace('"none"', '"poll"')
        twice = twice.replace("documents = []", 'documents = ["db:{any}"]')
        found = check.List(twice).check_line(self.lines[0])
        self.assertIn("several rows", found[0])

    def test_a_list_with_a_slip_of_the_pen_is_refused(self):
        with self.assertRaises(check.Mistake):
            check.List(POLL_AND_FEED.replace("asked", "ask"))
        with self.assertRaises(check.Mistake):
            check.List(POLL_AND_FEED.replace("db:{db}", "db:{bd}")).check_line(self.lines[0])


if __name__ == "__main__":
    unittest.main()
