"""The ledger with kafka-python: what is promised, see ../README.md."""

import sys
import threading
import time
import traceback

import kafka
from kafka import TopicPartition, errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata
from plot import ARGS, NAME, PARTITIONS, RATE, RECORDS, REPORT, Book, Gaps, numbered, play, same, shaped, strike
import plot

BOOTSTRAP = ARGS["bootstrap"].split(",")
ADMIN = kafka.KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def eventually(what, holds):
    plot.eventually(what, holds, errors.KafkaError)


def create_topic(topic, partitions):
    options = {"num_partitions": partitions, "replication_factor": 3, "configs": {"min.insync.replicas": "2"}}
    ADMIN.create_topics({topic: options}, wait_for_metadata=True)


def describe_group(group):
    seen = ADMIN.describe_groups([group])[group]
    members = seen["members"]
    assigned = sum(len(topic["partitions"]) for m in members if m["member_assignment"]
                   for topic in m["member_assignment"]["assigned_partitions"])
    return seen["group_state"], len(members), assigned


def offset(topic, partition, spec):
    tp = TopicPartition(topic, partition)
    return ADMIN.list_partition_offsets({tp: spec})[tp].offset


class Member(threading.Thread):
    def __init__(self, topic, group, book):
        super().__init__(daemon=True)
        self.topic, self.group, self.book = topic, group, book
        self.assigned, self.ended, self.failed = 0, False, None

    def run(self):
        try:
            consumer = kafka.KafkaConsumer(self.topic, group_id=self.group, bootstrap_servers=BOOTSTRAP,
                                           enable_auto_commit=False, auto_offset_reset="earliest")
            while not self.ended:
                batches = consumer.poll(timeout_ms=100)
                self.assigned = len(consumer.assignment())
                for record in (record for batch in batches.values() for record in batch):
                    self.book.write(record.partition, record.offset, record.key, record.value)
                if batches:
                    self.commit(consumer)
            self.commit(consumer)
            consumer.close()
        except BaseException as e:  # whatever it is, the main thread must hear of it
            traceback.print_exc()
            self.failed = e

    def commit(self, consumer):
        try:
            consumer.commit()
        except (errors.CommitFailedError, errors.RebalanceInProgressError) as e:
            # Others have the partitions by now and read these records again.
            print("a commit came too late:", e, file=sys.stderr)

    def end(self):
        self.ended = True
        self.join(30)
        if self.failed or self.is_alive():
            raise AssertionError(f"a member failed: {self.failed!r}")


def numbered_records(topic, count, blow):
    gaps, futures = Gaps(), []
    producer = kafka.KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", enable_idempotence=True, linger_ms=1)
    started = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, started + i / RATE - time.monotonic()))
        key, value = numbered(i)
        futures.append(producer.send(topic, key=key, value=value).add_callback(lambda _: gaps.acknowledged()))
        if blow and i == count // 3:
            strike(blow)
    for future in futures:
        future.get(60)
    producer.close()
    REPORT["records"] += count
    if blow:
        gaps.report()


def ledger():
    topic, group, book = f"{NAME}-ledger", f"{NAME}-ledger-group", Book()
    create_topic(topic, PARTITIONS)
    members = [Member(topic, group, book) for _ in range(2)]
    for member in members:
        member.start()
    eventually("both members have partitions", lambda: all(member.assigned for member in members))
    numbered_records(topic, RECORDS, f"group {group}")
    eventually("all records are read", lambda: len(book.read) >= RECORDS or any(m.failed for m in members))
    eventually("the group is stable with two members", lambda: describe_group(group) == ("Stable", 2, PARTITIONS))
    for member in members:
        member.end()
    book.check(RECORDS)
    committed = ADMIN.list_group_offsets(group)[group]
    for p in range(PARTITIONS):
        at = committed.get(TopicPartition(topic, p))
        same(f"committed offset of {p}", offset(topic, p, OffsetSpec.LATEST), at.offset if at else 0)
    eventually("the group is empty", lambda: describe_group(group)[0] == "Empty")


def read_all(topic, partitions, most, isolation):
    """From the beginning to the end that this isolation shows, and no more than so many."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=BOOTSTRAP, isolation_level=isolation, enable_auto_commit=False)
    tps = [TopicPartition(topic, p) for p in range(partitions)]
    consumer.assign(tps)
    consumer.seek_to_beginning(*tps)
    ends, read, until = consumer.end_offsets(tps), [], time.monotonic() + 30
    while any(consumer.position(tp) < ends[tp] for tp in tps) and len(read) <= most and time.monotonic() < until:
        for batch in consumer.poll(timeout_ms=200).values():
            read.extend(batch)
    consumer.close()
    return read


def shapes():
    topic, sent = f"{NAME}-shapes", []
    REPORT["left_out"].append("shapes: header values that are null, records with neither key nor value")
    create_topic(topic, 1)
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        producer = kafka.KafkaProducer(bootstrap_servers=BOOTSTRAP, compression_type=codec, linger_ms=100)
        futures = []
        for i in range(20):
            key, value, headers, timestamp = shaped(codec, i, null=b"", may_be_nothing=False)
            sent.append((key, value, headers, timestamp))
            futures.append(producer.send(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp, partition=0))
        for future in futures:
            future.get(30)
        producer.close()
    read = read_all(topic, 1, len(sent), "read_uncommitted")
    same("records", sent, [(r.key, r.value, list(r.headers), r.timestamp) for r in read])


def admin():
    topic, group = f"{NAME}-admin", f"{NAME}-admin-group"
    create_topic(topic, PARTITIONS)
    same("nodes", 3, len(ADMIN.describe_cluster()["brokers"]))
    partitions = lambda: ADMIN.describe_topics([topic])[0]["partitions"]
    sizes = [(len(p["replica_nodes"]), len(p["isr_nodes"])) for p in partitions()]
    same("replicas and ISR", [(3, 3)] * PARTITIONS, sizes)
    resource = lambda configs: [kafka.admin.ConfigResource("TOPIC", topic, configs)]

    def config(key):
        return ADMIN.describe_configs(resource(None), config_filter="all")["topic"][topic][key]["value"]

    # The broker that is asked may have heard of the topic a moment later than another.
    eventually("min.insync.replicas is 2", lambda: config("min.insync.replicas") == "2")
    ADMIN.alter_configs(resource({"retention.ms": "3600000"}))
    eventually("retention.ms is set", lambda: config("retention.ms") == "3600000")
    ADMIN.create_partitions({topic: PARTITIONS + 1})
    eventually("there is one partition more", lambda: len(partitions()) == PARTITIONS + 1)
    try:
        create_topic(topic, 1)
        raise AssertionError("a topic that exists is not refused")
    except errors.TopicAlreadyExistsError:
        pass

    producer, start = kafka.KafkaProducer(bootstrap_servers=BOOTSTRAP), int(time.time() * 1000)
    for i in range(10):
        producer.send(topic, value=f"v{i}".encode(), partition=0, timestamp_ms=start + i * 10).get(30)
    producer.close()
    same("earliest", 0, offset(topic, 0, OffsetSpec.EARLIEST))
    same("latest", 10, offset(topic, 0, OffsetSpec.LATEST))
    same("of a time", 4, offset(topic, 0, start + 35))
    same("of the largest time", 9, offset(topic, 0, OffsetSpec.MAX_TIMESTAMP))
    tp = TopicPartition(topic, 0)
    same("low watermark", 5, ADMIN.delete_records({tp: 5})[tp]["low_watermark"])
    same("earliest after deletion", 5, offset(topic, 0, OffsetSpec.EARLIEST))

    ADMIN.alter_group_offsets(group, {tp: OffsetAndMetadata(7, "seven", -1)})
    at = ADMIN.list_group_offsets(group)[group][tp]
    same("offset and metadata", (7, "seven"), (at.offset, at.metadata))
    groups = lambda: {g["group_id"] for g in ADMIN.list_groups()}
    same("the group is listed", True, group in groups())
    same("state", "Empty", describe_group(group)[0])
    ADMIN.delete_group_offsets(group, [tp])
    ADMIN.alter_group_offsets(group, {tp: OffsetAndMetadata(6, "", -1)})
    ADMIN.delete_groups([group])
    same("the group is listed", False, group in groups())
    ADMIN.delete_topics([topic])
    eventually("the topic is gone", lambda: topic not in ADMIN.list_topics())


def transactions():
    """Consume, transform and produce; every third transaction is aborted."""
    source, to, count = f"{NAME}-tx-in", f"{NAME}-tx-out", RECORDS // 3
    create_topic(source, PARTITIONS)
    create_topic(to, PARTITIONS)
    numbered_records(source, count, None)
    consumer = kafka.KafkaConsumer(source, group_id=f"{NAME}-tx", bootstrap_servers=BOOTSTRAP, max_poll_records=10,
                                   enable_auto_commit=False, auto_offset_reset="earliest",
                                   isolation_level="read_committed")
    producer = kafka.KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=f"{NAME}-tx")
    producer.init_transactions()
    done = rounds = 0
    while done < count:
        batches = consumer.poll(timeout_ms=200)
        if not batches:
            continue
        rounds += 1
        is_aborted = rounds % 3 == 0
        if rounds == 4:
            strike(f"transaction {NAME}-tx")
        producer.begin_transaction()
        for record in (record for batch in batches.values() for record in batch):
            producer.send(to, key=record.key, value=b"aborted" if is_aborted else record.value)
        offsets = {tp: OffsetAndMetadata(batch[-1].offset + 1, "", -1) for tp, batch in batches.items()}
        producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
        time.sleep(0.05)
        if is_aborted:
            producer.abort_transaction()
            for tp, batch in batches.items():
                consumer.seek(tp, batch[0].offset)
        else:
            producer.commit_transaction()
            done += sum(len(batch) for batch in batches.values())
    consumer.close()
    producer.close()
    book = Book()
    for record in read_all(to, PARTITIONS, count, "read_committed"):
        book.write(record.partition, record.offset, record.key, record.value)
    book.check(count)
    everything = read_all(to, PARTITIONS, 1_000_000, "read_uncommitted")
    same("aborted records are there for who wants them", True, any(r.value == b"aborted" for r in everything))


play("kafka-python", kafka.__version__, {
    "ledger": ledger, "shapes": shapes, "admin": admin, "transactions": transactions,
})
