package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ---- every compression, headers, nulls, timestamps

func shapes(ctx context.Context) error {
	topic := name + "-shapes"
	if err := createTopic(ctx, topic, 1); err != nil {
		return err
	}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	var sent []*kgo.Record
	for codec, compression := range codecs {
		client, err := connect(kgo.ProducerBatchCompression(compression), kgo.ProducerLinger(100*time.Millisecond))
		if err != nil {
			return err
		}
		var batch []*kgo.Record
		for i := range 20 {
			record := &kgo.Record{Topic: topic, Timestamp: time.UnixMilli(baseTime + int64(i))}
			if i%3 != 0 {
				record.Key = []byte("key")
			}
			if i%5 != 1 {
				record.Value = bytes.Repeat(fmt.Appendf(nil, "%s %d ", codec, i), 40)
			}
			record.Headers = []kgo.RecordHeader{{Key: "number", Value: fmt.Appendf(nil, "h%d", i)}, {Key: "empty", Value: []byte{}}}
			if i%2 == 0 {
				record.Headers = append(record.Headers, kgo.RecordHeader{Key: "null"})
			}
			batch = append(batch, record)
		}
		err = client.ProduceSync(ctx, batch...).FirstErr()
		client.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
		sent = append(sent, batch...)
	}
	read, err := readAll(ctx, topic, len(sent), kgo.ReadUncommitted())
	if err != nil {
		return err
	}
	if err := same("records read", len(sent), len(read)); err != nil {
		return err
	}
	for i, record := range read {
		wanted := sent[i]
		err := errors.Join(same("key", wanted.Key, record.Key), same("value", wanted.Value, record.Value),
			same("headers", wanted.Headers, record.Headers),
			same("timestamp", wanted.Timestamp.UnixMilli(), record.Timestamp.UnixMilli()))
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

// ---- what an admin client does

func adminCalls(ctx context.Context) error {
	topic := name + "-admin"
	if err := createTopic(ctx, topic, partitions); err != nil {
		return err
	}
	if err := adminTopic(ctx, topic); err != nil {
		return err
	}
	if err := adminOffsets(ctx, topic); err != nil {
		return err
	}
	if err := adminGroup(ctx, topic, name+"-admin-group"); err != nil {
		return err
	}
	deleted, err := admin.DeleteTopic(ctx, topic)
	if err := errors.Join(err, deleted.Err); err != nil {
		return err
	}
	return eventually(ctx, "the topic is gone", func() bool {
		seen, err := admin.ListTopics(ctx, topic)
		return err == nil && errors.Is(seen[topic].Err, kerr.UnknownTopicOrPartition)
	})
}

func adminTopic(ctx context.Context, topic string) error {
	nodes, err := admin.ListBrokers(ctx)
	if err := errors.Join(err, same("nodes", 3, len(nodes))); err != nil {
		return err
	}
	seen, err := admin.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range seen[topic].Partitions {
		if err := same("replicas and ISR", []int{3, 3}, []int{len(p.Replicas), len(p.ISR)}); err != nil {
			return err
		}
	}
	config := func(key string) string {
		answer, err := admin.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return err.Error()
		}
		for _, c := range answer[0].Configs {
			if c.Key == key {
				return c.MaybeValue()
			}
		}
		return ""
	}
	// The broker that is asked may have heard of the topic a moment later than another.
	if err := eventually(ctx, "min.insync.replicas is 2", func() bool { return config("min.insync.replicas") == "2" }); err != nil {
		return err
	}
	value := "3600000"
	altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	if err := errors.Join(err, altered[0].Err); err != nil {
		return err
	}
	if err := eventually(ctx, "retention.ms is set", func() bool { return config("retention.ms") == value }); err != nil {
		return err
	}
	more, err := admin.CreatePartitions(ctx, 1, topic)
	if err := errors.Join(err, more.Error()); err != nil {
		return err
	}
	if err := eventually(ctx, "there is one partition more", func() bool {
		seen, err := admin.ListTopics(ctx, topic)
		return err == nil && len(seen[topic].Partitions) == partitions+1
	}); err != nil {
		return err
	}
	return same("a topic that exists is refused", true, errors.Is(createTopic(ctx, topic, 1), kerr.TopicAlreadyExists))
}

func adminOffsets(ctx context.Context, topic string) error {
	client, err := connect(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	start := time.Now().UnixMilli()
	for i := range int64(10) {
		record := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "v%d", i), Timestamp: time.UnixMilli(start + i*10)}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
	}
	offset := func(listed kadm.ListedOffsets, err error) int64 {
		at, _ := listed.Lookup(topic, 0)
		if err != nil || at.Err != nil {
			return -99
		}
		return at.Offset
	}
	err = errors.Join(same("earliest", int64(0), offset(admin.ListStartOffsets(ctx, topic))),
		same("latest", int64(10), offset(admin.ListEndOffsets(ctx, topic))),
		same("of a time", int64(4), offset(admin.ListOffsetsAfterMilli(ctx, start+35, topic))),
		same("of the largest time", int64(9), offset(admin.ListMaxTimestampOffsets(ctx, topic))))
	if err != nil {
		return err
	}
	before := kadm.Offsets{}
	before.AddOffset(topic, 0, 5, -1)
	deleted, err := admin.DeleteRecords(ctx, before)
	if err != nil {
		return err
	}
	low, _ := deleted.Lookup(topic, 0)
	return errors.Join(low.Err, same("low watermark", int64(5), low.LowWatermark),
		same("earliest after deletion", int64(5), offset(admin.ListStartOffsets(ctx, topic))))
}

func adminGroup(ctx context.Context, topic, group string) error {
	wanted := kadm.Offsets{}
	wanted.Add(kadm.Offset{Topic: topic, Partition: 0, At: 7, LeaderEpoch: -1, Metadata: "seven"})
	if err := admin.CommitAllOffsets(ctx, group, wanted); err != nil {
		return err
	}
	seen, err := admin.FetchOffsets(ctx, group)
	at, _ := seen.Lookup(topic, 0)
	if err := errors.Join(err, same("offset", int64(7), at.At), same("metadata", "seven", at.Metadata)); err != nil {
		return err
	}
	isListed := func() bool {
		groups, err := admin.ListGroups(ctx)
		_, isThere := groups[group]
		return err == nil && isThere
	}
	_, _, state := describeGroup(ctx, group, false)
	if err := errors.Join(same("state", "Empty", state), same("the group is listed", true, isListed())); err != nil {
		return err
	}
	deleted, err := admin.DeleteGroup(ctx, group)
	return errors.Join(err, deleted.Err, same("the group is still listed", false, isListed()))
}

// ---- consume, transform and produce in transactions; every third is aborted

func transactions(ctx context.Context) error {
	from, to, count := name+"-tx-in", name+"-tx-out", records/3
	if err := errors.Join(createTopic(ctx, from, partitions), createTopic(ctx, to, partitions)); err != nil {
		return err
	}
	if err := numberedRecords(ctx, from, count, ""); err != nil {
		return err
	}
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(strings.Split(args["bootstrap"], ",")...), kgo.TransactionalID(name+"-tx"),
		kgo.ConsumerGroup(name+"-tx"), kgo.ConsumeTopics(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets())
	if err != nil {
		return err
	}
	for done, rounds := 0, 0; done < count; {
		fetches := session.PollRecords(ctx, 10)
		if err := fetches.Err(); err != nil {
			return err
		}
		rounds++
		isAborted := rounds%3 == 0
		if rounds == 4 {
			fmt.Println("strike transaction", name+"-tx")
		}
		if err := session.Begin(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			value := record.Value
			if isAborted {
				value = []byte("aborted")
			}
			session.Produce(ctx, &kgo.Record{Topic: to, Key: record.Key, Value: value}, nil)
		})
		time.Sleep(50 * time.Millisecond)
		// An aborted session goes back to what is committed by itself.
		committed, err := session.End(ctx, kgo.TransactionEndTry(!isAborted))
		if err != nil {
			return err
		}
		if committed {
			done += fetches.NumRecords()
		}
	}
	session.Close()
	log := newBook()
	read, err := readAll(ctx, to, count, kgo.ReadCommitted())
	if err != nil {
		return err
	}
	for _, record := range read {
		log.write(record)
	}
	if err := log.check(count); err != nil {
		return err
	}
	everything, err := readAll(ctx, to, 1_000_000, kgo.ReadUncommitted())
	isThere := false
	for _, record := range everything {
		isThere = isThere || string(record.Value) == "aborted"
	}
	return errors.Join(err, same("aborted records are there for who wants them", true, isThere))
}
