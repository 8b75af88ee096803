"""What the Python programs have in common: arguments, the numbered records and their book, the report."""

import faulthandler
import json
import sys
import threading
import time
import traceback

KEYS, PARTITIONS = 10, 3
# Old, but not so old that retention would take it.
BASE_TIME = int(time.time() * 1000) - 3_600_000
ARGS = dict(word.split("=", 1) for word in sys.argv[1:])
NAME, RECORDS, RATE = ARGS["name"], int(ARGS["records"]), int(ARGS["rate"])
REPORT = {"records": 0, "redelivered": 0, "silence_ms": 0, "checked": [], "left_out": []}


def same(what, expected, seen):
    if expected != seen:
        raise AssertionError(f"{what}: {seen!r} instead of {expected!r}")


def eventually(what, holds, transient=()):
    until, last = time.monotonic() + 40, None
    while time.monotonic() < until:
        try:
            if holds():
                return
            last = None
        except transient as e:
            last = e
        time.sleep(0.05)
    raise AssertionError(f"not within 40 s: {what} ({last})")


def strike(what):
    print("strike", what, flush=True)


def numbered(i):
    """Record i has key i % KEYS and a value that numbers the records of its key."""
    key = f"key-{i % KEYS}"
    return key.encode(), f"{key}:{i // KEYS}".encode()


def shaped(codec, i, null=None, may_be_nothing=True):
    """Key, value, headers and timestamp of a record in which much is empty or null. `null` is put where a header has no
    value; some clients send no record with neither key nor value."""
    headers = [("number", f"h{i}".encode()), ("empty", b"")] + ([("null", null)] if i % 2 == 0 else [])
    value = None if i % 5 == 1 else f"{codec} {i} ".encode() * 40
    key = None if i % 3 == 0 and (may_be_nothing or value) else b"key"
    return key, value, headers, BASE_TIME + i


class Gaps:
    """The longest time between two acknowledgements."""

    def __init__(self):
        self.last, self.longest = time.monotonic(), 0.0

    def acknowledged(self):
        now = time.monotonic()
        self.last, self.longest = now, max(self.longest, now - self.last)

    def report(self):
        REPORT["silence_ms"] = max(REPORT["silence_ms"], int(self.longest * 1000))


class Book:
    """What the members have read, each record by its place."""

    def __init__(self):
        self.read, self.again, self.lock = {}, 0, threading.Lock()

    def write(self, partition, offset, key, value):
        key, value = key.decode(), value.decode()
        if not value.startswith(key + ":"):
            raise AssertionError(f"mixed up: {key} {value}")
        with self.lock:
            self.again += (partition, offset) in self.read
            self.read[partition, offset] = value

    def check(self, expected):
        """In the order of offsets every key counts up from 0 without a gap: nothing lost, doubled or out of order."""
        due = {}
        for place, value in sorted(self.read.items()):
            key, number = value.split(":")
            if int(number) != due.get(key, 0):
                raise AssertionError(f"lost, doubled or out of order: {value} at {place} where {due.get(key, 0)} is due")
            due[key] = int(number) + 1
        same("records read", expected, len(self.read))
        REPORT["redelivered"] += self.again


def play(client, version, parts):
    """Plays the parts that are asked for, says how it went and ends the process."""
    REPORT.update(client=client, version=version)
    # Whoever waits for ever says where.
    faulthandler.dump_traceback_later(80)
    try:
        for part in ARGS["parts"].split(","):
            if part in parts:
                parts[part]()
                REPORT["checked"].append(part)
            else:
                REPORT["left_out"].append(f"{part}: the client has none of it")
    except BaseException as e:  # the report says it, whatever it is
        traceback.print_exc()
        REPORT["failed"] = f"{type(e).__name__}: {e}"
    print(json.dumps(REPORT), flush=True)
    sys.exit("failed" in REPORT)
