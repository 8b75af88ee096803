// The ledger with sarama: what is promised, see ../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

const (
	keys       = 10
	partitions = 3
)

// Old, but not so old that retention would take it.
var baseTime = time.Now().UnixMilli() - 3_600_000

type report struct {
	Client      string   `json:"client"`
	Version     string   `json:"version"`
	Records     int      `json:"records"`
	Redelivered int      `json:"redelivered"`
	SilenceMs   int64    `json:"silence_ms"`
	Checked     []string `json:"checked"`
	LeftOut     []string `json:"left_out"`
	Failed      string   `json:"failed,omitempty"`
}

var (
	args    = map[string]string{}
	name    string
	records int
	rate    int
	client  sarama.Client
	admin   sarama.ClusterAdmin
	told    = report{Client: "sarama", Checked: []string{}, LeftOut: []string{}}
)

func main() {
	for _, word := range os.Args[1:] {
		key, value, _ := strings.Cut(word, "=")
		args[key] = value
	}
	name = args["name"]
	records, _ = strconv.Atoi(args["records"])
	rate, _ = strconv.Atoi(args["rate"])
	if info, ok := debug.ReadBuildInfo(); ok {
		at := slices.IndexFunc(info.Deps, func(dep *debug.Module) bool { return dep.Path == "github.com/IBM/sarama" })
		told.Version = strings.TrimPrefix(info.Deps[at].Version, "v")
	}
	sarama.Logger = log.New(os.Stderr, "", log.LstdFlags)
	if err := play(); err != nil {
		told.Failed = err.Error()
	}
	line, _ := json.Marshal(told)
	fmt.Println(string(line))
	if told.Failed != "" {
		os.Exit(1)
	}
}

func play() error {
	parts := map[string]func() error{"ledger": ledger, "shapes": shapes, "admin": adminCalls, "transactions": transactions}
	for _, part := range strings.Split(args["parts"], ",") {
		run, isThere := parts[part]
		if !isThere {
			told.LeftOut = append(told.LeftOut, part+": the client has none of it")
			continue
		}
		// One that a broker has died under answers its next call with EOF.
		var err error
		if client, err = sarama.NewClient(servers(), config()); err != nil {
			return err
		}
		if admin, err = sarama.NewClusterAdminFromClient(client); err != nil {
			return err
		}
		if err := run(); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		told.Checked = append(told.Checked, part)
	}
	return nil
}

func servers() []string { return strings.Split(args["bootstrap"], ",") }

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.ClientID = name
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Producer.Retry.Max = 200
	c.Metadata.Retry.Max = 60
	c.Admin.Retry.Max = 60
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	return c
}

// An idempotent producer may have one request under way; a commit of a consumer would have to wait for its fetch then.
func producerConfig() *sarama.Config {
	c := config()
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	return c
}

// ---- the ledger itself: numbered records, a group of two members, a broker killed in the middle

func ledger() error {
	topic, group := name+"-ledger", name+"-ledger-group"
	if err := createTopic(topic, partitions); err != nil {
		return err
	}
	log := newBook()
	members := make([]*member, 2)
	for i := range members {
		var err error
		if members[i], err = join(topic, group, log); err != nil {
			return err
		}
	}
	both := func() bool { return members[0].assigned.Load() > 0 && members[1].assigned.Load() > 0 }
	if err := eventually("both members have partitions", both); err != nil {
		return err
	}
	if err := numberedRecords(topic, records, "group "+group); err != nil {
		return err
	}
	if err := eventually("all records are read", func() bool { return log.size() >= records }); err != nil {
		return errors.Join(err, log.check(records))
	}
	stable := func() bool { return reflect.DeepEqual(describeGroup(group), []any{"Stable", 2, partitions}) }
	if err := eventually("the group is stable with two members", stable); err != nil {
		return err
	}
	for _, member := range members {
		if err := member.end(); err != nil {
			return err
		}
	}
	if err := log.check(records); err != nil {
		return err
	}
	told.Redelivered += log.again
	committed, err := admin.ListConsumerGroupOffsets(group, nil)
	if err != nil {
		return err
	}
	for p := range int32(partitions) {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			return err
		}
		if err := same(fmt.Sprint("committed offset of ", p), end, committed.Blocks[topic][p].Offset); err != nil {
			return err
		}
	}
	return eventually("the group is empty", func() bool { return describeGroup(group)[0] == "Empty" })
}

// State, members and assigned partitions of a group.
func describeGroup(group string) []any {
	seen, err := admin.DescribeConsumerGroups([]string{group})
	if err != nil {
		return []any{err.Error()}
	}
	assigned := 0
	for _, member := range seen[0].Members {
		assignment, err := member.GetMemberAssignment()
		if err != nil || assignment == nil {
			continue
		}
		for _, partitions := range assignment.Topics {
			assigned += len(partitions)
		}
	}
	return []any{seen[0].State, len(seen[0].Members), assigned}
}

// Record i has key i % keys and a value that numbers the records of its key.
func numberedRecords(topic string, count int, strike string) error {
	producer, err := sarama.NewAsyncProducer(servers(), producerConfig())
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	var gap time.Duration
	go func() {
		last := time.Now()
		for acknowledged := 0; acknowledged < count; acknowledged++ {
			select {
			case <-producer.Successes():
				gap, last = max(gap, time.Since(last)), time.Now()
			case failed := <-producer.Errors():
				done <- failed
				return
			}
		}
		done <- nil
	}()
	started := time.Now()
	for i := range count {
		time.Sleep(time.Until(started.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		key := fmt.Sprintf("key-%d", i%keys)
		value := sarama.StringEncoder(fmt.Sprintf("%s:%d", key, i/keys))
		producer.Input() <- &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(key), Value: value}
		if i == count/3 && strike != "" {
			fmt.Println("strike", strike)
		}
	}
	select {
	case err = <-done:
	case <-time.After(60 * time.Second):
		err = errors.New("not all records are acknowledged")
	}
	producer.AsyncClose()
	told.Records += count
	if strike != "" {
		told.SilenceMs = max(told.SilenceMs, gap.Milliseconds())
	}
	return err
}

type place struct {
	partition int32
	offset    int64
}

// What the members have read, each record by its place.
type book struct {
	mutex sync.Mutex
	read  map[place]string
	again int
	wrong error
}

func newBook() *book { return &book{read: map[place]string{}} }

func (b *book) write(message *sarama.ConsumerMessage) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	at := place{message.Partition, message.Offset}
	if _, isThere := b.read[at]; isThere {
		b.again++
	}
	if !strings.HasPrefix(string(message.Value), string(message.Key)+":") {
		b.wrong = fmt.Errorf("mixed up: %s %s", message.Key, message.Value)
	}
	b.read[at] = string(message.Value)
}

func (b *book) size() int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return len(b.read)
}

// In the order of offsets every key counts up from 0 without a gap: nothing lost, doubled or out of order.
func (b *book) check(expected int) error {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	places := make([]place, 0, len(b.read))
	for at := range b.read {
		places = append(places, at)
	}
	slices.SortFunc(places, func(x, y place) int {
		return int(x.partition-y.partition)<<32 + int(x.offset-y.offset)
	})
	due := map[string]int{}
	for _, at := range places {
		key, text, _ := strings.Cut(b.read[at], ":")
		if number, _ := strconv.Atoi(text); number != due[key] {
			return fmt.Errorf("lost, doubled or out of order: %s at %v where %d is due", b.read[at], at, due[key])
		}
		due[key]++
	}
	return errors.Join(b.wrong, same("records read", expected, len(b.read)))
}

// A member of the group; sarama calls it back.
type member struct {
	group    sarama.ConsumerGroup
	book     *book
	assigned atomic.Int64
	cancel   context.CancelFunc
	done     chan error
}

func join(topic, group string, log *book) (*member, error) {
	consumers, err := sarama.NewConsumerGroup(servers(), group, config())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{group: consumers, book: log, cancel: cancel, done: make(chan error, 1)}
	go func() {
		var failed error
		for ctx.Err() == nil && failed == nil {
			// Ends with every rebalance, and with the coordinator's death.
			failed = consumers.Consume(ctx, []string{topic}, m)
		}
		m.done <- failed
	}()
	return m, nil
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	count := 0
	for _, partitions := range session.Claims() {
		count += len(partitions)
	}
	m.assigned.Store(int64(count))
	return nil
}

func (m *member) Cleanup(session sarama.ConsumerGroupSession) error {
	session.Commit()
	return nil
}

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message := <-claim.Messages():
			if message == nil {
				return nil
			}
			m.book.write(message)
			session.MarkMessage(message, "")
			if len(claim.Messages()) == 0 {
				session.Commit()
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *member) end() error {
	m.cancel()
	return errors.Join(<-m.done, m.group.Close())
}

// ---- small things

func createTopic(topic string, count int32) error {
	two := "2"
	entries := map[string]*string{"min.insync.replicas": &two}
	return admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: count, ReplicationFactor: 3, ConfigEntries: entries}, false)
}

// From the beginning to the end that this isolation shows.
func readAll(topic string, count int32, isolation sarama.IsolationLevel) ([]*sarama.ConsumerMessage, error) {
	c := config()
	c.Consumer.IsolationLevel = isolation
	consumer, err := sarama.NewConsumer(servers(), c)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	var read []*sarama.ConsumerMessage
	for p := range count {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		messages, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		for next := int64(0); next < end; {
			select {
			case message := <-messages.Messages():
				read = append(read, message)
				next = message.Offset + 1
			case <-time.After(2 * time.Second):
				// Behind the last record there are markers only, if transactions wrote here.
				next = end
			}
		}
		messages.AsyncClose()
	}
	return read, nil
}

func same(what string, expected, seen any) error {
	if reflect.DeepEqual(expected, seen) {
		return nil
	}
	return fmt.Errorf("%s: %v instead of %v", what, seen, expected)
}

func eventually(what string, holds func() bool) error {
	for until := time.Now().Add(40 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return nil
		}
	}
	return fmt.Errorf("not in time: %s", what)
}
