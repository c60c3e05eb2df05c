"""Two devices that sync a calendar and an address book with vdirsyncer: a laptop and a phone of the same person.

Arguments: the server's host and port, and the file for the documents that the laptop, the phone and the server hold at the end.
A device's copy is a folder of files in the working directory; creating, changing and deleting a file is what a calendar program does.
"""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree

CONFIGURATION = """
[general]
status_path = "{home}/status"

[pair calendar]
a = "calendar_here"
b = "calendar_there"
collections = ["work"]
metadata = ["displayname", "color"]
conflict_resolution = {resolution}

[storage calendar_here]
type = "filesystem"
path = "{home}/calendars"
fileext = ".ics"

[storage calendar_there]
type = "caldav"
url = "http://{server}/"
username = "alice"
password = "alice-password"

[pair contacts]
a = "contacts_here"
b = "contacts_there"
collections = ["people"]
conflict_resolution = {resolution}

[storage contacts_here]
type = "filesystem"
path = "{home}/contacts"
fileext = ".vcf"

[storage contacts_there]
type = "carddav"
url = "http://{server}/"
username = "alice"
password = "alice-password"
"""


class Device:
    """A folder of events, a folder of contacts, and vdirsyncer's configuration that syncs them. In a conflict the laptop's copy wins
    on the laptop, and the server's on the phone."""

    def __init__(self, server, name, resolution):
        self.home = pathlib.Path(name).absolute()
        self.home.mkdir()
        self.calendar = self.home / "calendars" / "work"
        self.contacts = self.home / "contacts" / "people"
        (self.home / "config").write_text(CONFIGURATION.format(home=self.home, server=server, resolution=json.dumps(resolution)))

    def run(self, *arguments, answers=""):
        """Runs vdirsyncer; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "vdirsyncer", "--config", self.home / "config", *arguments],
            input=answers, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
        )
        assert done.returncode == 0, f"{self.home.name}: vdirsyncer {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def event(self, identity, summary):
        write(self.calendar / f"{identity}.ics", f"""BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//tests//clients//EN
BEGIN:VEVENT
UID:{identity}
DTSTAMP:20300107T080000Z
DTSTART:20300107T090000Z
DTEND:20300107T100000Z
SUMMARY:{summary}
END:VEVENT
END:VCALENDAR
""")

    def contact(self, identity, name):
        write(self.contacts / f"{identity}.vcf", f"""BEGIN:VCARD
VERSION:3.0
UID:{identity}
N:{name};;;;
FN:{name}
END:VCARD
""")

    def held(self):
        """What a person sees on this device: UID -> the file's lines."""
        return by_uid(path.read_text() for folder in (self.calendar, self.contacts) for path in folder.glob("*.*"))


def write(path, text):
    """Replaces the file as a calendar program does, with a time of change that vdirsyncer cannot take for the old one."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text.replace("\n", "\r\n"), newline="")
    if path.stat().st_mtime_ns == before:
        os.utime(path, ns=(before + 10**9, before + 10**9))


def by_uid(texts):
    """UID -> lines. A server may put a document's lines in another order and add its own; what a person wrote must be there."""
    documents = {}
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        documents[next(line[4:] for line in lines if line.startswith("UID:"))] = sorted(lines)
    return documents


def on_the_server(server):
    """What the server holds, asked for with one REPORT for each collection."""
    texts = []
    for collection, question in (("work", "caldav}calendar-query"), ("people", "carddav}addressbook-query")):
        space, name = question.split("}")
        kind = {"caldav": "calendar-data", "carddav": "address-data"}[space]
        level = '<c:filter><c:comp-filter name="VCALENDAR"/></c:filter>' if space == "caldav" else ""
        body = f'<c:{name} xmlns="DAV:" xmlns:c="urn:ietf:params:xml:ns:{space}"><prop><c:{kind}/></prop>{level}</c:{name}>'
        request = urllib.request.Request(f"http://{server}/alice/{collection}/", body.encode(), method="REPORT")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"alice:alice-password").decode())
        request.add_header("Content-Type", "application/xml")
        request.add_header("Depth", "1")
        with urllib.request.urlopen(request, timeout=30) as reply:
            found = xml.etree.ElementTree.fromstring(reply.read())
        texts += [element.text for element in found.iter(f"{{urn:ietf:params:xml:ns:{space}}}{kind}")]
    return by_uid(texts)


def at(place):
    """Says where the scenario is, and waits until it may go on."""
    print(place, flush=True)
    sys.stdin.readline()


def settle(*devices):
    """Syncs the devices in turn until each has what the others sent."""
    for device in (*devices, *devices):
        device.run("sync")


def creations(laptop, phone):
    laptop.calendar.mkdir(parents=True)
    laptop.contacts.mkdir(parents=True)
    laptop.run("discover", answers="y\n" * 4)
    phone.run("discover", answers="y\n" * 4)
    for number in range(25):
        laptop.event(f"event-{number}", f"the laptop's event {number}")
    for number in range(5):
        phone.event(f"phone-{number}", f"the phone's event {number}")
        laptop.contact(f"contact-{number}", f"Contact {number}")
    settle(laptop, phone)
    assert len(laptop.held()) == len(phone.held()) == 35


def file_of(folder, identity):
    return next(path for path in folder.glob("*.*") if re.search(rf"^UID:{identity}\s*$", path.read_text(), re.MULTILINE))


def edit(folder, identity, words, other):
    path = file_of(folder, identity)
    text = path.read_text()
    assert words in text
    write(path, text.replace(words, other))


def changes_and_deletions_on_both_sides(laptop, phone):
    edit(laptop.calendar, "event-1", "the laptop's event 1", "changed on the laptop")
    edit(phone.calendar, "event-2", "the laptop's event 2", "changed on the phone")
    edit(phone.contacts, "contact-1", "Contact 1", "Renamed")
    file_of(laptop.calendar, "event-3").unlink()
    file_of(phone.calendar, "phone-4").unlink()
    file_of(phone.contacts, "contact-2").unlink()
    settle(laptop, phone)
    for device in (laptop, phone):
        assert not {"event-3", "phone-4", "contact-2"} & set(device.held())


def conflicts(laptop, phone):
    """Both change one event; and one changes what the other deletes, where the change outlives the deletion."""
    edit(laptop.calendar, "event-5", "the laptop's event 5", "the laptop thinks so")
    edit(phone.calendar, "event-5", "the laptop's event 5", "the phone thinks otherwise")
    file_of(laptop.calendar, "event-6").unlink()
    edit(phone.calendar, "event-6", "the laptop's event 6", "kept by the phone")
    settle(phone, laptop)
    assert "SUMMARY:the laptop thinks so" in phone.held()["event-5"]
    assert "SUMMARY:kept by the phone" in laptop.held()["event-6"]


def display_name(laptop, phone):
    """A collection's properties are synced by a command of their own."""
    (laptop.calendar / "displayname").write_text("Work and travel")
    laptop.run("metasync")
    phone.run("metasync")
    assert (phone.calendar / "displayname").read_text() == "Work and travel"


def nothing_new(server, *devices):
    """What clients do most of the time: the first of these syncs may be a device's first since the last change."""
    for turn in ("first", "second", "third"):
        at(f"the {turn} sync without a change")
        for device in devices:
            said = device.run("sync")
            assert "Copying" not in said and "Deleting" not in said, said
            device.run("metasync")
        on_the_server(server)
    at("synced")


def main(server, output):
    laptop, phone = Device(server, "laptop", "a wins"), Device(server, "phone", "b wins")
    creations(laptop, phone)
    changes_and_deletions_on_both_sides(laptop, phone)
    conflicts(laptop, phone)
    display_name(laptop, phone)
    nothing_new(server, laptop, phone)
    held = {"laptop": laptop.held(), "phone": phone.held(), "server": on_the_server(server)}
    made = {"event": 25, "phone": 5, "contact": 5}
    deleted = {"event-3", "phone-4", "contact-2"}
    assert set(held["laptop"]) == {f"{kind}-{number}" for kind, count in made.items() for number in range(count)} - deleted
    pathlib.Path(output).write_text(json.dumps(held))


if __name__ == "__main__":
    main(*sys.argv[1:])
