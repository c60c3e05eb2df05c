"""Two devices that sync one Kinto collection with kinto-http: a laptop and a phone of the same person.

Arguments: the server's host and port, and the file for the documents that the laptop, the phone and the server hold at the end.
kinto-http asks and writes, and leaves it to the program around it to keep a copy: `Device` is that program.
"""

import json
import logging
import sys

import kinto_http

TOMBSTONE = None


class Device:
    """A copy of one collection: what it holds, what was changed here since the last sync, and the version that it has seen."""

    def __init__(self, server, bucket, collection):
        self.client = kinto_http.Client(
            server_url=f"http://{server}/v1", auth=("alice", "alice-password"), bucket=bucket, collection=collection, ignore_batch_4xx=True
        )
        self.records = {}
        self.changed = {}
        self.seen = None

    def put(self, identity, **fields):
        self.changed[identity] = {"id": identity, **fields}

    def delete(self, identity):
        self.changed[identity] = TOMBSTONE

    def now(self):
        """What a person sees on this device: the copy with the changes that were not yet sent."""
        return {key: value for key, value in {**self.records, **self.changed}.items() if value is not TOMBSTONE}

    def pull(self):
        """Takes what others changed; how many records that were. Nothing new is a 304."""
        asked = {} if self.seen is None else {"_since": f'"{self.seen}"', "if_none_match": self.seen}
        changes = self.client.get_records(**asked)
        for record in changes:
            if record.get("deleted"):
                self.records.pop(record["id"], None)
            else:
                self.records[record["id"]] = record
        stamps = [record["last_modified"] for record in changes]
        self.seen = max([self.seen or 0, *stamps])
        return len(changes)

    def push(self):
        """Sends what was changed here in one batch, each part on condition that nobody else changed that record; the conflicts."""
        if not self.changed:
            return {}
        order = list(self.changed)
        with self.client.batch() as batch:
            for identity in order:
                mine, known = self.changed[identity], self.records.get(identity)
                version = known and known["last_modified"]
                if mine is TOMBSTONE:
                    batch.delete_record(id=identity, if_match=version)
                elif version:
                    batch.update_record(data=mine, if_match=version)
                else:
                    batch.create_record(data=mine)
        conflicts = {}
        for identity, answer in zip(order, batch.results(), strict=True):
            mine = self.changed.pop(identity)
            if answer.get("code") == 412:
                conflicts[identity] = mine
            else:
                assert "data" in answer, f"{identity}: {answer}"
        return conflicts

    def sync(self):
        """Both ways until nothing is left to send; how much moved. In a conflict the words of both are kept, in alphabetical order; a change
        outlives a deletion."""
        moved = self.pull() + len(self.changed)
        for _ in range(5):
            conflicts = self.push()
            self.pull()
            for identity, mine in conflicts.items():
                theirs = self.records.get(identity)
                if theirs is not None and mine is not TOMBSTONE:
                    self.put(identity, text=" / ".join(sorted([mine["text"], theirs["text"]])))
                elif theirs is None and mine is not TOMBSTONE:
                    self.put(identity, text=mine["text"])
            if not self.changed:
                return moved
        raise AssertionError(f"still in conflict: {sorted(self.changed)}")


def at(place):
    """Says where the scenario is, and waits until it may go on."""
    print(place, flush=True)
    sys.stdin.readline()


def settle(*devices):
    """Syncs the devices in turn until each has what the others sent."""
    for device in (*devices, *devices):
        device.sync()


def creations(laptop, phone):
    for number in range(30):
        laptop.put(f"note-{number}", text=f"the laptop's note {number}")
    for number in range(8):
        phone.put(f"phone-{number}", text=f"the phone's note {number}")
    settle(laptop, phone)
    assert len(laptop.now()) == len(phone.now()) == 38


def changes_and_deletions_on_both_sides(laptop, phone):
    laptop.put("note-1", text="changed on the laptop")
    phone.put("note-2", text="changed on the phone")
    laptop.delete("note-3")
    phone.delete("phone-4")
    settle(laptop, phone)
    for device in (laptop, phone):
        assert "note-3" not in device.now() and "phone-4" not in device.now()


def conflict(laptop, phone):
    """Each device changes what the other changed or deleted, after both have pulled: the server refuses parts of the second batch."""
    laptop.put("note-5", text="the laptop thinks so")
    laptop.delete("note-6")
    phone.put("note-5", text="the phone thinks otherwise")
    phone.put("note-6", text="kept by the phone")
    assert laptop.push() == {}
    refused = phone.push()
    assert sorted(refused) == ["note-5", "note-6"], refused
    phone.changed = refused
    for device in (phone, laptop):
        device.pull()
    phone.put("note-5", text=" / ".join(sorted([refused["note-5"]["text"], phone.records["note-5"]["text"]])))
    settle(phone, laptop)
    assert laptop.now()["note-5"]["text"] == "the laptop thinks so / the phone thinks otherwise"
    assert laptop.now()["note-6"]["text"] == "kept by the phone"


def a_long_batch(laptop, phone):
    """20 records of 5 kB: a body longer than what tidegate reads of it."""
    for number in range(20):
        laptop.put(f"long-{number}", text=str(number).ljust(5000, "."))
    settle(laptop, phone)


def without_a_copy(laptop):
    """Reads and writes one by one."""
    client = laptop.client.clone()
    assert client.get_record(id="note-1")["data"]["text"] == "changed on the laptop"
    client.create_record(id="direct", data={"text": "written to the server"})
    client.patch_record(id="direct", data={"text": "changed on the server"})
    client.create_record(id="brief", data={"text": "soon gone"})
    client.update_record(id="brief", data={"text": "nearly gone"})
    client.delete_record(id="brief")
    look_around(client)


def look_around(client):
    """What a program asks that keeps no copy."""
    client.server_info()
    assert client.get_records_timestamp()
    assert "work" in {bucket["id"] for bucket in client.get_buckets()}
    assert [collection["id"] for collection in client.get_collections()] == ["notes"]
    assert client.get_record(id="direct")["data"]["text"] == "changed on the server"


def the_bucket_with_two_names(laptop, phone):
    """The user's own bucket, which a GET can create."""
    laptop.put("colour", text="green")
    laptop.put("font", text="large")
    settle(laptop, phone)
    phone.put("colour", text="blue")
    settle(phone, laptop)
    assert laptop.now()["colour"]["text"] == "blue"


def nothing_new(*devices):
    """What clients do most of the time: the first of these syncs may be a device's first since the last change."""
    for turn in ("first", "second", "third"):
        at(f"the {turn} sync without a change")
        for device in devices:
            assert device.sync() == 0
            look_around(device.client.clone())
    at("synced")


def main(server, output):
    laptop, phone = (Device(server, "work", "notes") for _ in range(2))
    laptop.client.server_info()
    laptop.client.create_bucket(id="work")
    laptop.client.create_collection(id="notes")
    creations(laptop, phone)
    changes_and_deletions_on_both_sides(laptop, phone)
    conflict(laptop, phone)
    a_long_batch(laptop, phone)
    without_a_copy(laptop)
    settle(laptop, phone)
    own_laptop, own_phone = (Device(server, "default", "settings") for _ in range(2))
    the_bucket_with_two_names(own_laptop, own_phone)
    for device in (own_laptop, own_phone):
        assert device.sync() == 0
    nothing_new(laptop, phone)
    held = {
        "laptop": {**laptop.now(), **own_laptop.now()},
        "phone": {**phone.now(), **own_phone.now()},
        "server": {record["id"]: record for device in (laptop, own_laptop) for record in device.client.get_records()},
    }
    made = {"note": 30, "phone": 8, "long": 20}
    deleted = {"note-3", "phone-4"}
    expected = {f"{kind}-{number}" for kind, count in made.items() for number in range(count)} - deleted
    assert set(held["laptop"]) == expected | {"direct", "colour", "font"}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(held, file)


if __name__ == "__main__":
    logging.disable()  # kinto-http warns of every part of a batch, also of those that went well
    main(*sys.argv[1:])
