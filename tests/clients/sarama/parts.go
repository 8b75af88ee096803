package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// ---- every compression, headers, nulls, timestamps

func shapes() error {
	topic := name + "-shapes"
	if err := createTopic(topic, 1); err != nil {
		return err
	}
	codecs := []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy,
		sarama.CompressionLZ4, sarama.CompressionZSTD}
	var sent []*sarama.ProducerMessage
	for _, codec := range codecs {
		c := producerConfig()
		c.Producer.Compression = codec
		producer, err := sarama.NewSyncProducer(servers(), c)
		if err != nil {
			return err
		}
		var batch []*sarama.ProducerMessage
		for i := range 20 {
			message := &sarama.ProducerMessage{Topic: topic, Timestamp: time.UnixMilli(baseTime + int64(i))}
			if i%3 != 0 {
				message.Key = sarama.StringEncoder("key")
			}
			if i%5 != 1 {
				message.Value = sarama.StringEncoder(strings.Repeat(fmt.Sprintf("%s %d ", codec, i), 40))
			}
			message.Headers = []sarama.RecordHeader{{Key: []byte("number"), Value: fmt.Appendf(nil, "h%d", i)},
				{Key: []byte("empty"), Value: []byte{}}}
			if i%2 == 0 {
				message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte("null")})
			}
			batch = append(batch, message)
		}
		if err := errors.Join(producer.SendMessages(batch), producer.Close()); err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
		sent = append(sent, batch...)
	}
	read, err := readAll(topic, 1, sarama.ReadUncommitted)
	if err := errors.Join(err, same("records read", len(sent), len(read))); err != nil {
		return err
	}
	for i, message := range read {
		key, value := bytesOf(sent[i].Key), bytesOf(sent[i].Value)
		err := errors.Join(same("key", key, message.Key), same("value", value, message.Value),
			same("headers", len(sent[i].Headers), len(message.Headers)),
			same("timestamp", sent[i].Timestamp.UnixMilli(), message.Timestamp.UnixMilli()))
		for n, header := range message.Headers {
			err = errors.Join(err, same("header", sent[i].Headers[n], *header))
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

func bytesOf(encoder sarama.Encoder) []byte {
	if encoder == nil {
		return nil
	}
	bytes, _ := encoder.Encode()
	return bytes
}

// ---- what an admin client does

func adminCalls() error {
	topic := name + "-admin"
	if err := createTopic(topic, partitions); err != nil {
		return err
	}
	if err := adminTopic(topic); err != nil {
		return err
	}
	if err := adminOffsets(topic); err != nil {
		return err
	}
	if err := adminGroup(topic, name+"-admin-group"); err != nil {
		return err
	}
	if err := admin.DeleteTopic(topic); err != nil {
		return err
	}
	return eventually("the topic is gone", func() bool {
		topics, err := admin.ListTopics()
		_, isThere := topics[topic]
		return err == nil && !isThere
	})
}

func adminTopic(topic string) error {
	brokers, _, err := admin.DescribeCluster()
	if err := errors.Join(err, same("nodes", 3, len(brokers))); err != nil {
		return err
	}
	seen, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return err
	}
	for _, p := range seen[0].Partitions {
		if err := same("replicas and ISR", []int{3, 3}, []int{len(p.Replicas), len(p.Isr)}); err != nil {
			return err
		}
	}
	config := func(key string) string {
		entries, _ := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
		for _, entry := range entries {
			if entry.Name == key {
				return entry.Value
			}
		}
		return ""
	}
	// The broker that is asked may have heard of the topic a moment later than another.
	if err := eventually("min.insync.replicas is 2", func() bool { return config("min.insync.replicas") == "2" }); err != nil {
		return err
	}
	value := "3600000"
	entries := map[string]sarama.IncrementalAlterConfigsEntry{
		"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value},
	}
	if err := admin.IncrementalAlterConfig(sarama.TopicResource, topic, entries, false); err != nil {
		return err
	}
	if err := eventually("retention.ms is set", func() bool { return config("retention.ms") == value }); err != nil {
		return err
	}
	if err := admin.CreatePartitions(topic, partitions+1, nil, false); err != nil {
		return err
	}
	if err := eventually("there is one partition more", func() bool {
		seen, err := admin.DescribeTopics([]string{topic})
		return err == nil && len(seen[0].Partitions) == partitions+1
	}); err != nil {
		return err
	}
	return same("a topic that exists is refused", true, errors.Is(createTopic(topic, 1), sarama.ErrTopicAlreadyExists))
}

func adminOffsets(topic string) error {
	c := producerConfig()
	c.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewSyncProducer(servers(), c)
	if err != nil {
		return err
	}
	defer producer.Close()
	start := time.Now().UnixMilli()
	for i := range int64(10) {
		value := sarama.StringEncoder(fmt.Sprintf("v%d", i))
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: value, Timestamp: time.UnixMilli(start + i*10)})
		if err != nil {
			return err
		}
	}
	offset := func(time int64) int64 {
		at, err := client.GetOffset(topic, 0, time)
		if err != nil {
			return -99
		}
		return at
	}
	err = errors.Join(same("earliest", int64(0), offset(sarama.OffsetOldest)),
		same("latest", int64(10), offset(sarama.OffsetNewest)), same("of a time", int64(4), offset(start+35)))
	if err != nil {
		return err
	}
	if err := admin.DeleteRecords(topic, map[int32]int64{0: 5}); err != nil {
		return err
	}
	return same("earliest after deletion", int64(5), offset(sarama.OffsetOldest))
}

func adminGroup(topic, group string) error {
	manager, err := sarama.NewOffsetManagerFromClient(group, client)
	if err != nil {
		return err
	}
	partition, err := manager.ManagePartition(topic, 0)
	if err != nil {
		return err
	}
	partition.MarkOffset(7, "seven")
	manager.Commit()
	partition.AsyncClose()
	if err := manager.Close(); err != nil {
		return err
	}
	seen, err := admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0}})
	if err != nil {
		return err
	}
	at := seen.GetBlock(topic, 0)
	err = errors.Join(same("offset", int64(7), at.Offset), same("metadata", "seven", at.Metadata),
		same("state", "Empty", describeGroup(group)[0]))
	if err != nil {
		return err
	}
	isListed := func() bool {
		groups, _ := admin.ListConsumerGroups()
		_, isThere := groups[group]
		return isThere
	}
	err = errors.Join(same("the group is listed", true, isListed()), admin.DeleteConsumerGroupOffset(group, topic, 0))
	if err != nil {
		return err
	}
	if isListed() {
		err = admin.DeleteConsumerGroup(group)
	}
	return errors.Join(err, same("the group is still listed", false, isListed()))
}

// ---- consume, transform and produce in transactions; every third is aborted

func transactions() error {
	from, to, group, count := name+"-tx-in", name+"-tx-out", name+"-tx", records/3
	if err := errors.Join(createTopic(from, partitions), createTopic(to, partitions)); err != nil {
		return err
	}
	if err := numberedRecords(from, count, ""); err != nil {
		return err
	}
	c := producerConfig()
	c.Producer.Transaction.ID = group
	producer, err := sarama.NewAsyncProducer(servers(), c)
	if err != nil {
		return err
	}
	go func() {
		for range producer.Successes() {
		}
	}()
	c = config()
	c.Consumer.IsolationLevel = sarama.ReadCommitted
	consumers, err := sarama.NewConsumerGroup(servers(), group, c)
	if err != nil {
		return err
	}
	worker := &worker{producer: producer, to: to, group: group, count: count}
	for err == nil && worker.done < count {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		worker.cancel = cancel
		err = consumers.Consume(ctx, []string{from}, worker)
		cancel()
	}
	if err := errors.Join(err, worker.failed, consumers.Close(), producer.Close()); err != nil {
		return err
	}
	log := newBook()
	read, err := readAll(to, partitions, sarama.ReadCommitted)
	if err != nil {
		return err
	}
	for _, message := range read {
		log.write(message)
	}
	if err := log.check(count); err != nil {
		return err
	}
	everything, err := readAll(to, partitions, sarama.ReadUncommitted)
	isThere := false
	for _, message := range everything {
		isThere = isThere || string(message.Value) == "aborted"
	}
	return errors.Join(err, same("aborted records are there for who wants them", true, isThere))
}

// One claim at a time writes transactions of up to ten records.
type worker struct {
	producer sarama.AsyncProducer
	to       string
	group    string
	count    int
	mutex    chanMutex
	done     int
	rounds   int
	failed   error
	cancel   context.CancelFunc
}

type chanMutex chan struct{}

func (w *worker) Setup(sarama.ConsumerGroupSession) error {
	w.mutex = make(chanMutex, 1)
	return nil
}

func (w *worker) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (w *worker) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		var batch []*sarama.ConsumerMessage
		select {
		case <-session.Context().Done():
			return nil
		case message := <-claim.Messages():
			if message == nil {
				return nil
			}
			batch = append(batch, message)
		}
		for range min(9, len(claim.Messages())) {
			if message := <-claim.Messages(); message != nil {
				batch = append(batch, message)
			}
		}
		w.mutex <- struct{}{}
		err := w.transact(session, batch)
		<-w.mutex
		if err != nil {
			w.failed = err
			w.cancel()
			return err
		}
	}
}

// Every third is tried once in vain before it counts.
func (w *worker) transact(session sarama.ConsumerGroupSession, batch []*sarama.ConsumerMessage) error {
	w.rounds++
	if w.rounds == 4 {
		fmt.Println("strike transaction", w.group)
	}
	if w.rounds%3 == 0 {
		if err := w.write(batch, true); err != nil {
			return err
		}
		if err := w.producer.AbortTxn(); err != nil {
			return err
		}
	}
	if err := w.write(batch, false); err != nil {
		return err
	}
	if err := w.producer.CommitTxn(); err != nil {
		return err
	}
	last := batch[len(batch)-1]
	session.MarkMessage(last, "")
	if w.done += len(batch); w.done >= w.count {
		w.cancel()
	}
	return nil
}

func (w *worker) write(batch []*sarama.ConsumerMessage, isAborted bool) error {
	if err := w.producer.BeginTxn(); err != nil {
		return err
	}
	for _, message := range batch {
		value := sarama.ByteEncoder(message.Value)
		if isAborted {
			value = sarama.ByteEncoder("aborted")
		}
		w.producer.Input() <- &sarama.ProducerMessage{Topic: w.to, Key: sarama.ByteEncoder(message.Key), Value: value}
	}
	time.Sleep(50 * time.Millisecond)
	return w.producer.AddMessageToTxn(batch[len(batch)-1], w.group, nil)
}
