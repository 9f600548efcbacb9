package replication

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// prepareAppend is the library's function that fills in an append request. It is called
// after a replication goroutine has read the leader's last index, and reads the commit
// index after it has encoded the leader's address.
const prepareAppend = "(*Raft).setupAppendEntries"

// preparesAppend reports whether the library is filling in an append request on this
// goroutine.
func preparesAppend() bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, prepareAppend) {
			return true
		}
		if !more {
			return false
		}
	}
}

// A follower commits only what the request that it takes has compared with its log: a
// request without entries, prepared before the leader's first entry and completed after
// that was committed, must not make a deposed leader apply an entry of its own.
func TestFollowerCommitsOnlyWhatTheRequestHolds(t *testing.T) {
	// Which of the new leader's two replication goroutines comes first is up to the
	// scheduler. It is held; half of the time it is the one that serves the deposed leader.
	const attempts = 30
	for attempt := range attempts {
		hit := false
		t.Run(fmt.Sprint(attempt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hit = commitAcrossAnElection(t, attempt%2) })
		})
		if hit || t.Failed() {
			return
		}
	}
	t.Fatalf("in none of %d attempts was the held goroutine the one that serves the deposed leader", attempts)
}

// commitAcrossAnElection holds the nth replication goroutine of a new leader between its
// two reads until the leader has committed. It reports whether that one sent to the
// deposed leader.
func commitAcrossAnElection(t *testing.T, nth int) bool {
	c := newCluster(t, 3)
	defer c.close()
	old := c.leader()
	old.mustPut("k", "1")
	c.caughtUp()
	next := c.others(old)[0]
	c.eventually("all logs are equal", func() bool {
		for _, n := range c.nodes {
			if n.group.raft.LastIndex() != old.group.raft.LastIndex() || n.machine.get("k") != "1" {
				return false
			}
		}
		return true
	})
	for _, n := range c.nodes {
		n.store.fsync.Store(int64(2 * time.Millisecond)) // replication starts before the first entry is stored
	}
	c.fabric.isolate(old.id)
	stale := make(chan error, 1)
	go func() { _, err := old.put("k", "stale"); stale <- err }()
	tip := next.group.raft.LastIndex()
	c.eventually("the write is in the old leader's log alone", func() bool { return old.group.raft.LastIndex() > tip })

	var mu sync.Mutex
	var seen []string // goroutines, in the order in which they came
	target := make(chan raft.ServerAddress, 1)
	encoding := func() {
		if !preparesAppend() {
			return
		}
		name := goroutine()
		mu.Lock()
		again := slices.Contains(seen, name)
		if !again {
			seen = append(seen, name)
		}
		chosen := !again && len(seen) == nth+1
		mu.Unlock()
		if !chosen {
			return
		}
		for range 500 { // bounded: without this goroutine there may be no quorum
			time.Sleep(time.Millisecond)
			if next.group.raft.CommitIndex() > tip {
				break
			}
		}
		sending := func(to raft.ServerAddress) {
			if goroutine() == name {
				select {
				case target <- to:
				default:
				}
			}
		}
		next.transport.sending.Store(&sending)
	}
	next.transport.encoding.Store(&encoding)
	c.fabric.heal()
	next.group.Campaign()
	c.eventually("the next one leads", next.group.Leads)
	next.transport.encoding.Store(nil)
	next.mustPut("other", "2")
	for _, n := range c.nodes {
		n.mustGet("k", "1") // no reader sees what was never committed
	}
	if err := <-stale; err == nil {
		t.Error("a write that was never committed was acknowledged")
	} else if e := asError(t, err); e.Outcome != Unknown && !errors.Is(err, raft.ErrNotLeader) {
		t.Errorf("the write in the deposed leader's log ended with %v", err)
	}
	select {
	case to := <-target:
		return to == old.member().address()
	default:
		return false
	}
}

// goroutine names the caller's goroutine.
func goroutine() string {
	var b [64]byte
	name, _, _ := strings.Cut(string(b[:runtime.Stack(b[:], false)]), " [")
	return name
}
