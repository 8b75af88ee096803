"""The ledger with aiokafka: what is promised, see ../README.md."""

import asyncio
import sys
import time

import aiokafka
from aiokafka import TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from plot import ARGS, NAME, PARTITIONS, RATE, RECORDS, REPORT, Book, Gaps, numbered, play, same, shaped, strike

SERVERS = ARGS["bootstrap"]


async def eventually(what, holds):
    until, last = time.monotonic() + 40, None
    while time.monotonic() < until:
        try:
            if await holds():
                return
            last = None
        except errors.KafkaError as e:
            last = e
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within 40 s: {what} ({last})")


async def create_topic(admin, topic, partitions):
    answer = await admin.create_topics([NewTopic(topic, partitions, 3, topic_configs={"min.insync.replicas": "2"})])
    error = errors.for_code(answer.topic_errors[0][1])
    if error is not errors.NoError:
        raise error(topic)


async def describe_group(admin, group):
    (answer,) = await admin.describe_consumer_groups([group])
    (seen,) = answer.groups
    return seen[2], len(seen[5])


async def follow(topic, group, book, state):
    """A member of a group, until it is told to end."""
    consumer = aiokafka.AIOKafkaConsumer(topic, group_id=group, bootstrap_servers=SERVERS, enable_auto_commit=False,
                                         auto_offset_reset="earliest")
    await consumer.start()
    try:
        while not state["ended"]:
            batches = await consumer.getmany(timeout_ms=100)
            state["assigned"] = len(consumer.assignment())
            for record in (record for batch in batches.values() for record in batch):
                book.write(record.partition, record.offset, record.key, record.value)
            if batches:
                try:
                    await consumer.commit()
                except (errors.CommitFailedError, errors.IllegalStateError) as e:
                    # Others have the partitions by now and read these records again.
                    print("a commit came too late:", e, file=sys.stderr)
        await consumer.commit()
    finally:
        await consumer.stop()


async def numbered_records(topic, count, blow):
    gaps, futures = Gaps(), []
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=SERVERS, enable_idempotence=True, linger_ms=1)
    await producer.start()
    started = time.monotonic()
    for i in range(count):
        await asyncio.sleep(max(0.0, started + i / RATE - time.monotonic()))
        key, value = numbered(i)
        future = await producer.send(topic, key=key, value=value)
        future.add_done_callback(lambda _: gaps.acknowledged())
        futures.append(future)
        if blow and i == count // 3:
            strike(blow)
    await asyncio.wait_for(asyncio.gather(*futures), 60)
    await producer.stop()
    REPORT["records"] += count
    if blow:
        gaps.report()


async def ledger(admin):
    topic, group, book = f"{NAME}-ledger", f"{NAME}-ledger-group", Book()
    await create_topic(admin, topic, PARTITIONS)
    states = [{"ended": False, "assigned": 0} for _ in range(2)]
    members = [asyncio.create_task(follow(topic, group, book, state)) for state in states]

    async def both():
        return all(state["assigned"] for state in states)

    async def all_read():
        return len(book.read) >= RECORDS or any(member.done() for member in members)

    async def stable():
        return await describe_group(admin, group) == ("Stable", 2)

    async def empty():
        return (await describe_group(admin, group))[0] == "Empty"

    await eventually("both members have partitions", both)
    await numbered_records(topic, RECORDS, f"group {group}")
    await eventually("all records are read", all_read)
    await eventually("the group is stable with two members", stable)
    for state in states:
        state["ended"] = True
    await asyncio.wait_for(asyncio.gather(*members), 30)
    book.check(RECORDS)
    committed = await admin.list_consumer_group_offsets(group)
    for tp, end in (await ends(topic, PARTITIONS)).items():
        at = committed.get(tp)
        same(f"committed offset of {tp}", end, at.offset if at else 0)
    await eventually("the group is empty", empty)


async def ends(topic, partitions):
    async with aiokafka.AIOKafkaConsumer(bootstrap_servers=SERVERS) as consumer:
        return await consumer.end_offsets([TopicPartition(topic, p) for p in range(partitions)])


async def read_all(topic, partitions, most, isolation):
    """From the beginning to the end that this isolation shows, and no more than so many."""
    read, until = [], time.monotonic() + 30
    async with aiokafka.AIOKafkaConsumer(bootstrap_servers=SERVERS, isolation_level=isolation) as consumer:
        tps = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        last = await consumer.end_offsets(tps)
        while len(read) <= most and time.monotonic() < until:
            if all([await consumer.position(tp) >= last[tp] for tp in tps]):
                break
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                read.extend(batch)
    return read


async def shapes(admin):
    topic, sent = f"{NAME}-shapes", []
    REPORT["left_out"].append("shapes: records with neither key nor value")
    await create_topic(admin, topic, 1)
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=SERVERS, compression_type=codec, linger_ms=100) as producer:
            futures = []
            for i in range(20):
                key, value, headers, timestamp = shaped(codec, i, may_be_nothing=False)
                sent.append((key, value, headers, timestamp))
                futures.append(await producer.send(topic, key=key, value=value, headers=headers,
                                                   timestamp_ms=timestamp, partition=0))
            await asyncio.gather(*futures)
    read = await read_all(topic, 1, len(sent), "read_uncommitted")
    same("records", sent, [(r.key, r.value, list(r.headers), r.timestamp) for r in read])


async def admin_calls(admin):
    topic, group, tp = f"{NAME}-admin", f"{NAME}-admin-group", TopicPartition(f"{NAME}-admin", 0)
    await create_topic(admin, topic, PARTITIONS)
    same("nodes", 3, len((await admin.describe_cluster())["brokers"]))

    async def partitions():
        return (await admin.describe_topics([topic]))[0]["partitions"]

    sizes = [(len(p["replicas"]), len(p["isr"])) for p in await partitions()]
    same("replicas and ISR", [(3, 3)] * PARTITIONS, sizes)

    async def config(key):
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}.get(key)

    async def is_known():
        return await config("min.insync.replicas") == "2"

    # The broker that is asked may have heard of the topic a moment later than another.
    await eventually("min.insync.replicas is 2", is_known)
    # The old call that replaces all: what it does not name falls back to its default.
    configs = {"min.insync.replicas": "2", "retention.ms": "3600000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])

    async def is_set():
        return await config("retention.ms") == "3600000"

    async def is_wider():
        return len(await partitions()) == PARTITIONS + 1

    await eventually("retention.ms is set", is_set)
    await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})
    await eventually("there is one partition more", is_wider)
    try:
        await create_topic(admin, topic, 1)
        raise AssertionError("a topic that exists is not refused")
    except errors.TopicAlreadyExistsError:
        pass

    start = int(time.time() * 1000)
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=SERVERS, acks="all") as producer:
        for i in range(10):
            await producer.send_and_wait(topic, f"v{i}".encode(), partition=0, timestamp_ms=start + i * 10)
    async with aiokafka.AIOKafkaConsumer(bootstrap_servers=SERVERS) as consumer:
        same("earliest", 0, (await consumer.beginning_offsets([tp]))[tp])
        same("latest", 10, (await consumer.end_offsets([tp]))[tp])
        same("of a time", 4, (await consumer.offsets_for_times({tp: start + 35}))[tp].offset)
        await admin.delete_records({tp: RecordsToDelete(before_offset=5)})
        same("earliest after deletion", 5, (await consumer.beginning_offsets([tp]))[tp])

    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=SERVERS, group_id=group, enable_auto_commit=False)
    consumer.assign([tp])
    await consumer.start()
    await consumer.commit({tp: (7, "seven")})
    await consumer.stop()
    at = (await admin.list_consumer_group_offsets(group))[tp]
    same("offset and metadata", (7, "seven"), (at.offset, at.metadata))
    same("the group is listed", True, group in {listed[0] for listed in await admin.list_consumer_groups()})
    same("state", ("Empty", 0), await describe_group(admin, group))
    await admin.delete_topics([topic])

    async def is_gone():
        return topic not in await admin.list_topics()

    await eventually("the topic is gone", is_gone)


async def transactions(admin):
    """Consume, transform and produce; every third transaction is aborted."""
    source, to, group, count = f"{NAME}-tx-in", f"{NAME}-tx-out", f"{NAME}-tx", RECORDS // 3
    await create_topic(admin, source, PARTITIONS)
    await create_topic(admin, to, PARTITIONS)
    await numbered_records(source, count, None)
    consumer = aiokafka.AIOKafkaConsumer(source, group_id=group, bootstrap_servers=SERVERS, enable_auto_commit=False,
                                         auto_offset_reset="earliest", isolation_level="read_committed")
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=SERVERS, transactional_id=f"{NAME}-tx")
    done = rounds = 0
    async with consumer, producer:
        while done < count:
            batches = await consumer.getmany(timeout_ms=200, max_records=10)
            if not batches:
                continue
            rounds += 1
            is_aborted = rounds % 3 == 0
            if rounds == 4:
                strike(f"transaction {NAME}-tx")
            await producer.begin_transaction()
            for record in (record for batch in batches.values() for record in batch):
                await producer.send(to, key=record.key, value=b"aborted" if is_aborted else record.value)
            offsets = {tp: batch[-1].offset + 1 for tp, batch in batches.items()}
            await producer.send_offsets_to_transaction(offsets, group)
            await asyncio.sleep(0.05)
            if is_aborted:
                await producer.abort_transaction()
                for tp, batch in batches.items():
                    consumer.seek(tp, batch[0].offset)
            else:
                await producer.commit_transaction()
                done += sum(len(batch) for batch in batches.values())
    book = Book()
    for record in await read_all(to, PARTITIONS, count, "read_committed"):
        book.write(record.partition, record.offset, record.key, record.value)
    book.check(count)
    everything = await read_all(to, PARTITIONS, 1_000_000, "read_uncommitted")
    same("aborted records are there for who wants them", True, any(r.value == b"aborted" for r in everything))


def part(plot):
    """A part of the plot in an event loop of its own, with an admin client."""

    async def main():
        admin = AIOKafkaAdminClient(bootstrap_servers=SERVERS)
        await admin.start()
        try:
            await plot(admin)
        finally:
            await admin.close()

    return lambda: asyncio.run(main())


play("aiokafka", aiokafka.__version__, {
    "ledger": part(ledger), "shapes": part(shapes), "admin": part(admin_calls), "transactions": part(transactions),
})
