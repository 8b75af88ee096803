// The ledger with KafkaJS: what is promised, see ../README.md.
"use strict";

const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require("kafkajs");
const lz4 = require("lz4-napi");
const { ZstdCodec } = require("zstd-codec");
const { isDeepStrictEqual } = require("node:util");

const KEYS = 10;
const PARTITIONS = 3;
// Old, but not so old that retention would take it.
const BASE_TIME = Date.now() - 3_600_000;
const args = Object.fromEntries(process.argv.slice(2).map((word) => word.split(/=(.*)/s, 2)));
const { name } = args;
const records = Number(args.records);
const rate = Number(args.rate);
const report = { client: "kafkajs", version: require("kafkajs/package.json").version, records: 0, redelivered: 0,
  silence_ms: 0, checked: [], left_out: [] };

// What a service on a machine of its own would give it: some patience.
const kafka = new Kafka({ clientId: name, brokers: args.bootstrap.split(","), logLevel: logLevel.WARN,
  logCreator: () => ({ label, log }) => console.error(label, log.message, log.error ?? ""),
  retry: { retries: 12, initialRetryTime: 50, maxRetryTime: 1000 } });
const admin = kafka.admin();

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function same(what, expected, seen) {
  if (!isDeepStrictEqual(expected, seen)) {
    throw new Error(`${what}: ${JSON.stringify(seen)} instead of ${JSON.stringify(expected)}`);
  }
}

async function eventually(what, holds) {
  let last;
  for (const until = Date.now() + 40_000; Date.now() < until; await sleep(50)) {
    try {
      if (await holds()) return;
      last = undefined;
    } catch (error) {
      if (!error.name.startsWith("Kafka")) throw error;
      last = error;
    }
  }
  throw new Error(`not within 40 s: ${what} (${last})`);
}

const createTopic = (topic, numPartitions) => admin.createTopics({ topics: [{ topic, numPartitions,
  replicationFactor: 3, configEntries: [{ name: "min.insync.replicas", value: "2" }] }] });

async function describeGroup(group) {
  const { groups: [seen] } = await admin.describeGroups([group]);
  return [seen.state, seen.members.length];
}

// ---- the ledger itself: numbered records, a group of two members, a broker killed in the middle

/** What the members have read, each record by its place. */
class Book {
  read = new Map();
  again = 0;

  write(partition, message) {
    const [key, value] = [message.key.toString(), message.value.toString()];
    if (!value.startsWith(`${key}:`)) throw new Error(`mixed up: ${key} ${value}`);
    const place = partition * 1e9 + Number(message.offset);
    if (this.read.has(place)) this.again++;
    this.read.set(place, value);
  }

  /** In the order of offsets every key counts up from 0 without a gap: nothing lost, doubled or out of order. */
  check(expected) {
    const due = new Map();
    for (const [place, value] of [...this.read].sort(([a], [b]) => a - b)) {
      const [key, number] = value.split(":");
      const next = due.get(key) ?? 0;
      if (Number(number) !== next) {
        throw new Error(`lost, doubled or out of order: ${value} at ${place} where ${next} is due`);
      }
      due.set(key, next + 1);
    }
    same("records read", expected, this.read.size);
    report.redelivered += this.again;
  }
}

async function join(topic, groupId, book) {
  const member = { assigned: 0, crash: undefined, consumer: kafka.consumer({ groupId }) };
  const { GROUP_JOIN, CRASH } = member.consumer.events;
  member.consumer.on(GROUP_JOIN, ({ payload }) => { member.assigned = (payload.memberAssignment[topic] ?? []).length; });
  member.consumer.on(CRASH, ({ payload }) => { if (!payload.restart) member.crash = payload.error; });
  await member.consumer.connect();
  await member.consumer.subscribe({ topics: [topic], fromBeginning: true });
  await member.consumer.run({ eachBatch: async ({ batch }) => {
    for (const message of batch.messages) book.write(batch.partition, message);
  } });
  return member;
}

/** Record i has key i % KEYS, whose partition is its number's, and a value that numbers the records of its key. */
async function numberedRecords(topic, count, strike) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const started = Date.now();
  let [last, longest, struck] = [started, 0, !strike];
  // A call writes to one partition: KafkaJS 2.2.4 forgets what a call had for a partition whose leader moves to a broker
  // that has answered this call already, whosever brokers these are.
  const write = async (partition) => {
    for (let i = 0; i < count; await sleep(10)) {
      const messages = [];
      for (; i < count && started + (i * 1000) / rate <= Date.now(); i++) {
        const key = i % KEYS;
        if (key % PARTITIONS !== partition) continue;
        messages.push({ key: `key-${key}`, value: `key-${key}:${Math.floor(i / KEYS)}`, partition });
      }
      if (messages.length === 0) continue;
      await producer.send({ topic, messages, acks: -1 });
      longest = Math.max(longest, Date.now() - last);
      last = Date.now();
      if (!struck && i > count / 3) {
        struck = true;
        console.log(`strike ${strike}`);
      }
    }
  };
  await Promise.all(Array.from({ length: PARTITIONS }, (_, partition) => write(partition)));
  await producer.disconnect();
  report.records += count;
  if (strike) report.silence_ms = Math.max(report.silence_ms, longest);
}

async function ledger() {
  const [topic, group, book] = [`${name}-ledger`, `${name}-ledger-group`, new Book()];
  await createTopic(topic, PARTITIONS);
  const members = await Promise.all([join(topic, group, book), join(topic, group, book)]);
  await eventually("both members have partitions", () => members.every((member) => member.assigned > 0));
  await numberedRecords(topic, records, `group ${group}`);
  await eventually("all records are read", () => book.read.size >= records || members.some((m) => m.crash));
  await eventually("the group is stable with two members", async () =>
    isDeepStrictEqual(await describeGroup(group), ["Stable", 2]));
  // Who has lost its coordinator goes back to what is committed; nothing is committed at the end but what was read anew.
  await eventually("all offsets are committed", async () => {
    const [committed] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    const offset = (partition) => committed.partitions.find((p) => p.partition === partition).offset;
    return (await admin.fetchTopicOffsets(topic)).every(({ partition, high }) => offset(partition) === high);
  });
  for (const member of members) {
    if (member.crash) throw member.crash;
    await member.consumer.disconnect();
  }
  book.check(records);
  await eventually("the group is empty", async () => (await describeGroup(group))[0] === "Empty");
}

/** From the beginning, so many and what comes within a second after them. Only groups can read. */
async function readAll(topic, expected, readUncommitted) {
  const read = [];
  const consumer = kafka.consumer({ groupId: `${name}-reader-${topic}-${readUncommitted}`, readUncommitted });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({ autoCommit: false, eachMessage: async ({ partition, message }) => { read.push({ partition, message }); } });
  await eventually(`${expected} records of ${topic}`, () => read.length >= expected);
  await sleep(1000);
  await consumer.disconnect();
  return read;
}

// ---- every compression, headers, nulls, timestamps

function installCodecs() {
  CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: async (encoder) => lz4.compressFrame(encoder.buffer),
    decompress: async (buffer) => lz4.decompressFrame(buffer),
  });
  const zstd = new Promise((resolve) => ZstdCodec.run((codec) => resolve(new codec.Simple())));
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
    decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer)),
  });
}

async function shapes() {
  const topic = `${name}-shapes`;
  await createTopic(topic, 1);
  const sent = [];
  report.left_out.push("shapes: header values that are null");
  for (const codec of ["None", "GZIP", "Snappy", "LZ4", "ZSTD"]) {
    const producer = kafka.producer();
    await producer.connect();
    const messages = [];
    for (let i = 0; i < 20; i++) {
      messages.push({ key: i % 3 === 0 ? null : "key", value: i % 5 === 1 ? null : `${codec} ${i} `.repeat(40),
        headers: { number: `h${i}`, empty: "" }, timestamp: String(BASE_TIME + i), partition: 0 });
    }
    await producer.send({ topic, messages, compression: CompressionTypes[codec], acks: -1 });
    await producer.disconnect();
    sent.push(...messages.map(({ partition, ...message }) => message));
  }
  const text = (bytes) => (bytes === null ? null : bytes.toString());
  const read = (await readAll(topic, sent.length, true)).map(({ message }) => ({ key: text(message.key),
    value: text(message.value), headers: Object.fromEntries(Object.entries(message.headers).map(([k, v]) => [k, text(v)])),
    timestamp: message.timestamp }));
  same("records", sent, read);
}

// ---- what an admin client does

async function adminCalls() {
  const [topic, group] = [`${name}-admin`, `${name}-admin-group`];
  await createTopic(topic, PARTITIONS);
  same("nodes", 3, (await admin.describeCluster()).brokers.length);
  const partitions = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions;
  for (const p of await partitions()) same("replicas and ISR", [3, 3], [p.replicas.length, p.isr.length]);
  const config = async (key) => {
    const { resources: [{ configEntries }] } = await admin.describeConfigs({ includeSynonyms: false,
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic }] });
    return configEntries.find((entry) => entry.configName === key).configValue;
  };
  // The broker that is asked may have heard of the topic a moment later than another.
  await eventually("min.insync.replicas is 2", async () => (await config("min.insync.replicas")) === "2");
  // The old call that replaces all: what it does not name falls back to its default.
  await admin.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic,
    configEntries: [{ name: "min.insync.replicas", value: "2" }, { name: "retention.ms", value: "3600000" }] }] });
  await eventually("retention.ms is set", async () => (await config("retention.ms")) === "3600000");
  await admin.createPartitions({ topicPartitions: [{ topic, count: PARTITIONS + 1 }] });
  await eventually("there is one partition more", async () => (await partitions()).length === PARTITIONS + 1);
  same("a topic that exists is created", false, await createTopic(topic, 1));

  const start = Date.now();
  const producer = kafka.producer();
  await producer.connect();
  for (let i = 0; i < 10; i++) {
    await producer.send({ topic, messages: [{ value: `v${i}`, partition: 0, timestamp: String(start + i * 10) }] });
  }
  await producer.disconnect();
  const at = async (offsets) => (await offsets).find((p) => p.partition === 0);
  same("earliest", "0", (await at(admin.fetchTopicOffsets(topic))).low);
  same("latest", "10", (await at(admin.fetchTopicOffsets(topic))).high);
  same("of a time", "4", (await at(admin.fetchTopicOffsetsByTimestamp(topic, start + 35))).offset);
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "5" }] });
  same("earliest after deletion", "5", (await at(admin.fetchTopicOffsets(topic))).low);

  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 0, offset: "7" }] });
  const [committed] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
  same("offset", "7", committed.partitions.find((p) => p.partition === 0).offset);
  const isListed = async () => (await admin.listGroups()).groups.some((listed) => listed.groupId === group);
  same("the group is listed", true, await isListed());
  same("state", "Empty", (await describeGroup(group))[0]);
  await admin.deleteGroups([group]);
  same("the group is listed", false, await isListed());
  await admin.deleteTopics({ topics: [topic] });
  await eventually("the topic is gone", async () => !(await admin.listTopics()).includes(topic));
}

// ---- consume, transform and produce in transactions; every third is aborted

async function transactions() {
  const [from, to, count] = [`${name}-tx-in`, `${name}-tx-out`, Math.floor(records / 3)];
  await createTopic(from, PARTITIONS);
  await createTopic(to, PARTITIONS);
  await numberedRecords(from, count, undefined);
  const producer = kafka.producer({ transactionalId: `${name}-tx`, idempotent: true, maxInFlightRequests: 1 });
  const groupId = `${name}-tx`;
  const consumer = kafka.consumer({ groupId, maxBytesPerPartition: 700 });
  await producer.connect();
  await consumer.connect();
  await consumer.subscribe({ topics: [from], fromBeginning: true });
  let [done, rounds, failed] = [0, 0, undefined];
  await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch: async ({ batch, resolveOffset }) => {
    const isAborted = ++rounds % 3 === 0;
    if (rounds === 4) console.log(`strike transaction ${name}-tx`);
    const transaction = await producer.transaction();
    try {
      const messages = batch.messages.map(({ key, value }) => ({ key, value: isAborted ? "aborted" : value }));
      await transaction.send({ topic: to, messages });
      const next = String(Number(batch.messages.at(-1).offset) + 1);
      await transaction.sendOffsets({ consumerGroupId: groupId,
        topics: [{ topic: from, partitions: [{ partition: batch.partition, offset: next }] }] });
      await sleep(50);
      if (isAborted) {
        await transaction.abort();
        consumer.seek({ topic: from, partition: batch.partition, offset: batch.messages[0].offset });
      } else {
        await transaction.commit();
        resolveOffset(batch.messages.at(-1).offset);
        done += messages.length;
      }
    } catch (error) {
      failed = error;
      throw error;
    }
  } });
  await eventually("all is done", () => done >= count || failed);
  if (failed) throw failed;
  await consumer.disconnect();
  await producer.disconnect();
  const book = new Book();
  for (const { partition, message } of await readAll(to, count, false)) book.write(partition, message);
  book.check(count);
  const everything = await readAll(to, count + 1, true);
  same("aborted records are there", true, everything.some(({ message }) => message.value.toString() === "aborted"));
}

async function main() {
  const parts = { ledger, shapes, admin: adminCalls, transactions };
  installCodecs();
  try {
    await admin.connect();
    for (const part of args.parts.split(",")) {
      if (!parts[part]) {
        report.left_out.push(`${part}: the client has none of it`);
        continue;
      }
      await parts[part]();
      report.checked.push(part);
    }
  } catch (error) {
    console.error(error);
    report.failed = String(error);
  }
  console.log(JSON.stringify(report));
  process.exit(report.failed ? 1 : 0);
}

main();
