"""The ledger with confluent-kafka, that is librdkafka: what is promised, see ../README.md."""

import sys
import threading
import time
import traceback

import confluent_kafka as ck
from confluent_kafka import admin as ck_admin
from plot import ARGS, NAME, PARTITIONS, RATE, RECORDS, REPORT, Book, Gaps, numbered, play, same, shaped, strike
import plot

BOOTSTRAP = {"bootstrap.servers": ARGS["bootstrap"]}
ADMIN = ck_admin.AdminClient(BOOTSTRAP)


def eventually(what, holds):
    plot.eventually(what, holds, ck.KafkaException)


def one(futures):
    """The result of the only future of an answer."""
    (future,) = futures.values()
    return future.result(30)


def create_topic(topic, partitions):
    one(ADMIN.create_topics([ck_admin.NewTopic(topic, partitions, 3, config={"min.insync.replicas": "2"})]))


def describe_group(group):
    return one(ADMIN.describe_consumer_groups([group]))


def offset(topic, partition, spec):
    return one(ADMIN.list_offsets({ck.TopicPartition(topic, partition): spec})).offset


def write(book, message):
    book.write(message.partition(), message.offset(), message.key(), message.value())


class Member(threading.Thread):
    def __init__(self, topic, group, protocol, book):
        super().__init__(daemon=True)
        self.book, self.assigned, self.ended, self.failed = book, 0, False, None
        config = BOOTSTRAP | {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self.consumer = ck.Consumer(config | ({} if protocol == "classic" else {"group.protocol": protocol}))
        self.consumer.subscribe([topic])

    def run(self):
        try:
            while not self.ended:
                messages = self.consumer.consume(500, timeout=0.1)
                self.assigned = len(self.consumer.assignment())
                for message in messages:
                    if message.error() is None:
                        write(self.book, message)
                    elif not message.error().retriable() and message.error().fatal():
                        raise ck.KafkaException(message.error())
                if any(message.error() is None for message in messages):
                    self.commit()
            self.commit()
            self.consumer.close()
        except BaseException as e:  # whatever it is, the main thread must hear of it
            traceback.print_exc()
            self.failed = e

    def commit(self):
        # Others have the partitions by now and read these records again, or there is nothing new to commit.
        late = (ck.KafkaError.REBALANCE_IN_PROGRESS, ck.KafkaError.ILLEGAL_GENERATION, ck.KafkaError.UNKNOWN_MEMBER_ID,
                ck.KafkaError._NO_OFFSET, ck.KafkaError.STALE_MEMBER_EPOCH)
        # The coordinator is another, or about to be.
        again = (ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS, ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
                 ck.KafkaError.NOT_COORDINATOR, ck.KafkaError._WAIT_COORD, ck.KafkaError._TRANSPORT)
        until = time.monotonic() + 30
        while True:
            try:
                return self.consumer.commit(asynchronous=False)
            except ck.KafkaException as e:
                print("not committed:", e, file=sys.stderr)
                if e.args[0].code() in late:
                    return None
                if e.args[0].code() not in again or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def end(self):
        self.ended = True
        self.join(30)
        if self.failed or self.is_alive():
            raise AssertionError(f"a member failed: {self.failed!r}")


def numbered_records(topic, count, blow):
    gaps, errors = Gaps(), []

    def told(error, _message):
        gaps.acknowledged()
        if error is not None:
            errors.append(error)

    producer = ck.Producer(BOOTSTRAP | {"enable.idempotence": True, "acks": "all", "linger.ms": 1})
    started = time.monotonic()
    for i in range(count):
        while (wait := started + i / RATE - time.monotonic()) > 0:
            producer.poll(wait)
        key, value = numbered(i)
        producer.produce(topic, key=key, value=value, on_delivery=told)
        if blow and i == count // 3:
            strike(blow)
    same("records not acknowledged", 0, producer.flush(60))
    same("errors", [], errors)
    REPORT["records"] += count
    if blow:
        gaps.report()


def ledger(part, protocol):
    topic, group, book = f"{NAME}-{part}", f"{NAME}-{part}-group", Book()
    create_topic(topic, PARTITIONS)
    members = [Member(topic, group, protocol, book) for _ in range(2)]
    for member in members:
        member.start()
    eventually("both members have partitions", lambda: all(member.assigned for member in members))
    numbered_records(topic, RECORDS, f"group {group}")
    eventually("all records are read", lambda: len(book.read) >= RECORDS or any(m.failed for m in members))

    def is_stable():
        seen = describe_group(group)
        assigned = sum(len(member.assignment.topic_partitions) for member in seen.members)
        return (seen.state, len(seen.members), assigned) == (ck.ConsumerGroupState.STABLE, 2, PARTITIONS)

    eventually("the group is stable with two members", is_stable)
    for member in members:
        member.end()
    book.check(RECORDS)
    committed = one(ADMIN.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)])).topic_partitions
    committed = {tp.partition: tp.offset for tp in committed}
    for p in range(PARTITIONS):
        same(f"committed offset of {p}", offset(topic, p, ck_admin.OffsetSpec.latest()), committed.get(p, 0))
    eventually("the group is empty", lambda: describe_group(group).state == ck.ConsumerGroupState.EMPTY)


def read_all(topic, partitions, most, isolation):
    """From the beginning to the end that this isolation shows, and no more than so many."""
    consumer = ck.Consumer(BOOTSTRAP | {"group.id": f"{NAME}-none", "enable.auto.commit": False,
                                        "isolation.level": isolation, "enable.partition.eof": True})
    consumer.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in range(partitions)])
    read, ends, until = [], set(), time.monotonic() + 30
    while len(ends) < partitions and len(read) <= most and time.monotonic() < until:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is None:
            read.append(message)
        elif message.error().code() == ck.KafkaError._PARTITION_EOF:
            ends.add(message.partition())
    consumer.close()
    return read


def shapes():
    topic, sent = f"{NAME}-shapes", []
    create_topic(topic, 1)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = ck.Producer(BOOTSTRAP | {"compression.type": codec, "linger.ms": 100})
        for i in range(20):
            key, value, headers, timestamp = shaped(codec, i)
            sent.append((key, value, headers, timestamp))
            producer.produce(topic, key=key, value=value, headers=headers, timestamp=timestamp, partition=0)
        same("records not acknowledged", 0, producer.flush(30))
    read = [(m.key(), m.value(), m.headers(), m.timestamp()[1]) for m in read_all(topic, 1, len(sent), "read_uncommitted")]
    same("records", sent, read)


def admin():
    topic, group = f"{NAME}-admin", f"{NAME}-admin-group"
    create_topic(topic, PARTITIONS)
    same("nodes", 3, len(ADMIN.describe_cluster().result(30).nodes))
    description = one(ADMIN.describe_topics(ck.TopicCollection([topic])))
    same("replicas and ISR", [(3, 3)] * PARTITIONS, [(len(p.replicas), len(p.isr)) for p in description.partitions])
    resource = ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, topic)
    config = lambda key: one(ADMIN.describe_configs([resource]))[key].value
    # The broker that is asked may have heard of the topic a moment later than another.
    eventually("min.insync.replicas is 2", lambda: config("min.insync.replicas") == "2")
    entry = ck_admin.ConfigEntry("retention.ms", "3600000", incremental_operation=ck_admin.AlterConfigOpType.SET)
    one(ADMIN.incremental_alter_configs([ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, topic,
                                                                 incremental_configs=[entry])]))
    eventually("retention.ms is set", lambda: config("retention.ms") == "3600000")
    one(ADMIN.create_partitions([ck_admin.NewPartitions(topic, PARTITIONS + 1)]))
    partitions = lambda: len(ADMIN.list_topics(topic, 10).topics[topic].partitions)
    eventually("there is one partition more", lambda: partitions() == PARTITIONS + 1)
    refused("a topic that exists", ck.KafkaError.TOPIC_ALREADY_EXISTS, lambda: create_topic(topic, 1))

    producer, start = ck.Producer(BOOTSTRAP), int(time.time() * 1000)
    for i in range(10):
        producer.produce(topic, key="k", value=f"v{i}", partition=0, timestamp=start + i * 10)
        producer.flush(30)
    spec = ck_admin.OffsetSpec
    same("earliest", 0, offset(topic, 0, spec.earliest()))
    same("latest", 10, offset(topic, 0, spec.latest()))
    same("of a time", 4, offset(topic, 0, spec.for_timestamp(start + 35)))
    same("of the largest time", 9, offset(topic, 0, spec.max_timestamp()))
    same("low watermark", 5, one(ADMIN.delete_records([ck.TopicPartition(topic, 0, 5)])).low_watermark)
    same("earliest after deletion", 5, offset(topic, 0, spec.earliest()))

    wanted = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(topic, 0, 7)])
    one(ADMIN.alter_consumer_group_offsets([wanted]))
    (seen,) = one(ADMIN.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)])).topic_partitions
    same("offset", 7, seen.offset)
    groups = lambda: {g.group_id for g in ADMIN.list_consumer_groups().result(30).valid}
    same("the group is listed", True, group in groups())
    same("state", ck.ConsumerGroupState.EMPTY, describe_group(group).state)
    one(ADMIN.delete_consumer_groups([group]))
    same("the group is listed", False, group in groups())
    one(ADMIN.delete_topics([topic]))
    eventually("the topic is gone", lambda: topic not in ADMIN.list_topics(timeout=10).topics)


def refused(what, code, deed):
    try:
        deed()
    except ck.KafkaException as e:
        return same(what, code, e.args[0].code())
    raise AssertionError(f"{what} is not refused")


def transactions():
    """Consume, transform and produce; every third transaction is aborted."""
    source, to, count = f"{NAME}-tx-in", f"{NAME}-tx-out", RECORDS // 3
    create_topic(source, PARTITIONS)
    create_topic(to, PARTITIONS)
    numbered_records(source, count, None)
    consumer = ck.Consumer(BOOTSTRAP | {"group.id": f"{NAME}-tx", "enable.auto.commit": False,
                                        "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    consumer.subscribe([source])
    producer = ck.Producer(BOOTSTRAP | {"transactional.id": f"{NAME}-tx"})
    producer.init_transactions(30)
    done = rounds = 0
    while done < count:
        messages = [m for m in consumer.consume(10, timeout=0.2) if m.error() is None]
        if not messages:
            continue
        rounds += 1
        is_aborted = rounds % 3 == 0
        if rounds == 4:
            strike(f"transaction {NAME}-tx")
        producer.begin_transaction()
        for message in messages:
            producer.produce(to, key=message.key(), value=b"aborted" if is_aborted else message.value())
        first, after = {}, {}
        for message in messages:
            first.setdefault(message.partition(), message.offset())
            after[message.partition()] = message.offset() + 1
        offsets = [ck.TopicPartition(source, p, at) for p, at in after.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        time.sleep(0.05)
        if is_aborted:
            producer.abort_transaction(30)
            for p, at in first.items():
                consumer.seek(ck.TopicPartition(source, p, at))
        else:
            producer.commit_transaction(30)
            done += len(messages)
    consumer.close()
    book = Book()
    for message in read_all(to, PARTITIONS, count, "read_committed"):
        write(book, message)
    book.check(count)
    everything = read_all(to, PARTITIONS, 1_000_000, "read_uncommitted")
    same("aborted records are there for who wants them", True, any(m.value() == b"aborted" for m in everything))


play("confluent-kafka", ck.libversion()[0], {
    "ledger": lambda: ledger("ledger", "classic"), "consumer": lambda: ledger("consumer", "consumer"),
    "shapes": shapes, "admin": admin, "transactions": transactions,
})
