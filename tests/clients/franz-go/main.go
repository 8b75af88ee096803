// The ledger with franz-go: what is promised, see ../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
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
	admin   *kadm.Client
	told    = report{Client: "franz-go", Checked: []string{}, LeftOut: []string{}}
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
		for _, dep := range info.Deps {
			if dep.Path == "github.com/twmb/franz-go" {
				told.Version = strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
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
	client, err := connect()
	if err != nil {
		return err
	}
	admin = kadm.NewClient(client)
	parts := map[string]func(context.Context) error{
		"ledger":       func(ctx context.Context) error { return ledger(ctx, "ledger") },
		"consumer":     func(ctx context.Context) error { return ledger(ctx, "consumer") },
		"shapes":       shapes,
		"admin":        adminCalls,
		"transactions": transactions,
	}
	for _, part := range strings.Split(args["parts"], ",") {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
		err := parts[part](ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		told.Checked = append(told.Checked, part)
	}
	return nil
}

func connect(more ...kgo.Opt) (*kgo.Client, error) {
	seeds := kgo.SeedBrokers(strings.Split(args["bootstrap"], ",")...)
	return kgo.NewClient(append([]kgo.Opt{seeds}, more...)...)
}

// ---- the ledger itself: numbered records, a group of two members, a broker killed in the middle

func ledger(ctx context.Context, part string) error {
	topic, group := name+"-"+part, name+"-"+part+"-group"
	if err := createTopic(ctx, topic, partitions); err != nil {
		return err
	}
	log := newBook()
	members := make([]*member, 2)
	for i := range members {
		var err error
		if members[i], err = join(ctx, topic, group, part == "consumer", log); err != nil {
			return err
		}
	}
	both := func() bool { return members[0].assigned.Load() > 0 && members[1].assigned.Load() > 0 }
	if err := eventually(ctx, "both members have partitions", both); err != nil {
		return err
	}
	if err := numberedRecords(ctx, topic, records, "group "+group); err != nil {
		return err
	}
	allRead := func() bool { return log.size() >= records || members[0].hasFailed() || members[1].hasFailed() }
	if err := eventually(ctx, "all records are read", allRead); err != nil {
		return errors.Join(err, log.check(records))
	}
	stable := func() bool {
		count, assigned, state := describeGroup(ctx, group, part == "consumer")
		return strings.EqualFold(state, "Stable") && count == 2 && assigned == partitions
	}
	if err := eventually(ctx, "the group is stable with two members", func() bool {
		return stable() || members[0].hasFailed() || members[1].hasFailed()
	}); err != nil {
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
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for p := range int32(partitions) {
		end, _ := ends.Lookup(topic, p)
		at, _ := committed.Lookup(topic, p)
		if err := same("committed offset of "+strconv.Itoa(int(p)), end.Offset, at.At); err != nil {
			return err
		}
	}
	return eventually(ctx, "the group is empty", func() bool {
		_, _, state := describeGroup(ctx, group, part == "consumer")
		return strings.EqualFold(state, "Empty")
	})
}

// Members, partitions assigned and state of a group.
func describeGroup(ctx context.Context, group string, isNew bool) (count, assigned int, state string) {
	if isNew {
		seen, err := admin.DescribeConsumerGroups(ctx, group)
		if err != nil {
			return 0, 0, err.Error()
		}
		for _, member := range seen[group].Members {
			for _, topic := range member.Assignment {
				assigned += len(topic)
			}
		}
		return len(seen[group].Members), assigned, seen[group].State
	}
	seen, err := admin.DescribeGroups(ctx, group)
	if err != nil {
		return 0, 0, err.Error()
	}
	described := seen[group]
	for _, topic := range described.AssignedPartitions() {
		assigned += len(topic)
	}
	return len(described.Members), assigned, described.State
}

// Record i has key i % keys and a value that numbers the records of its key.
func numberedRecords(ctx context.Context, topic string, count int, strike string) error {
	client, err := connect(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	var mutex sync.Mutex
	var failed error
	var gap time.Duration
	started := time.Now()
	last := started
	for i := range count {
		time.Sleep(time.Until(started.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		key := fmt.Sprintf("key-%d", i%keys)
		record := &kgo.Record{Topic: topic, Key: []byte(key), Value: fmt.Appendf(nil, "%s:%d", key, i/keys)}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			mutex.Lock()
			defer mutex.Unlock()
			failed = errors.Join(failed, err)
			gap, last = max(gap, time.Since(last)), time.Now()
		})
		if i == count/3 && strike != "" {
			fmt.Println("strike", strike)
		}
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	told.Records += count
	if strike != "" {
		told.SilenceMs = max(told.SilenceMs, gap.Milliseconds())
	}
	return failed
}

type place struct {
	partition int32
	offset    int64
}

// What the members have read, each record by its place.
type book struct {
	mutex sync.Mutex
	read  map[place]string
	ends  map[int32]int64
	again int
	wrong error
}

func newBook() *book { return &book{read: map[place]string{}, ends: map[int32]int64{}} }

func (b *book) write(record *kgo.Record) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	at := place{record.Partition, record.Offset}
	if _, isThere := b.read[at]; isThere {
		b.again++
	}
	if !strings.HasPrefix(string(record.Value), string(record.Key)+":") {
		b.wrong = fmt.Errorf("mixed up: %s %s", record.Key, record.Value)
	}
	b.read[at] = string(record.Value)
	b.ends[at.partition] = max(b.ends[at.partition], at.offset+1)
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
	due := map[string]int{}
	for partition, end := range b.ends {
		for offset := range end {
			value, isThere := b.read[place{partition, offset}]
			if !isThere {
				continue
			}
			key, text, _ := strings.Cut(value, ":")
			if number, _ := strconv.Atoi(text); number != due[key] {
				return fmt.Errorf("lost, doubled or out of order: %s at %d/%d where %d is due", value, partition, offset, due[key])
			}
			due[key]++
		}
	}
	return errors.Join(b.wrong, same("records read", expected, len(b.read)))
}

type member struct {
	client   *kgo.Client
	assigned atomic.Int64
	ended    atomic.Bool
	done     chan error
}

func join(ctx context.Context, topic, group string, isNew bool, log *book) (*member, error) {
	m := &member{done: make(chan error, 1)}
	if isNew {
		// franz-go asks for this before it speaks the new protocol.
		ctx = context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true)
	}
	count := func(sign int64) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			for _, partitions := range topics {
				m.assigned.Add(sign * int64(len(partitions)))
			}
		}
	}
	var err error
	m.client, err = connect(kgo.WithContext(ctx), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)),
		kgo.OnPartitionsLost(count(-1)), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	go func() { m.done <- m.read(ctx, log) }()
	return m, nil
}

func (m *member) read(ctx context.Context, log *book) error {
	defer m.client.Close()
	for !m.ended.Load() {
		poll, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := m.client.PollFetches(poll)
		cancel()
		for _, failed := range fetches.Errors() {
			if !errors.Is(failed.Err, context.DeadlineExceeded) {
				return failed.Err
			}
		}
		fetches.EachRecord(log.write)
		if fetches.NumRecords() > 0 {
			if err := m.client.CommitUncommittedOffsets(ctx); err != nil && !isLate(err) {
				return err
			}
		}
	}
	err := m.client.CommitUncommittedOffsets(ctx)
	for tries := 0; tries < 100 && err != nil && kerr.IsRetriable(err); tries++ {
		time.Sleep(100 * time.Millisecond)
		err = m.client.CommitUncommittedOffsets(ctx)
	}
	return err
}

// Others have the partitions by now and read these records again; or the next commit will do, when the coordinator is
// there again.
func isLate(err error) bool {
	return kerr.IsRetriable(err) || errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, kerr.IllegalGeneration) ||
		errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.StaleMemberEpoch)
}

func (m *member) end() error {
	m.ended.Store(true)
	return <-m.done
}

func (m *member) hasFailed() bool { return len(m.done) > 0 }

// ---- small things

func createTopic(ctx context.Context, topic string, count int32) error {
	two := "2"
	answer, err := admin.CreateTopic(ctx, count, 3, map[string]*string{"min.insync.replicas": &two}, topic)
	return errors.Join(err, answer.Err)
}

// From the beginning to the end that this isolation shows, and no more than so many.
func readAll(ctx context.Context, topic string, most int, isolation kgo.IsolationLevel) ([]*kgo.Record, error) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	client, err := connect(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(isolation),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var read []*kgo.Record
	missing := map[int32]bool{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Offset > 0 {
			missing[end.Partition] = true
		}
	})
	for len(missing) > 0 && len(read) <= most {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if !record.Attrs.IsControl() {
				read = append(read, record)
			}
			if end, _ := ends.Lookup(topic, record.Partition); record.Offset+1 >= end.Offset {
				delete(missing, record.Partition)
			}
		})
	}
	return read, nil
}

func same(what string, expected, seen any) error {
	if reflect.DeepEqual(expected, seen) {
		return nil
	}
	return fmt.Errorf("%s: %v instead of %v", what, seen, expected)
}

func eventually(ctx context.Context, what string, holds func() bool) error {
	for until := time.Now().Add(40 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("not in time: %s", what)
}
