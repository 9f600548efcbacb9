package membership

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"

	"github.com/capstan-kv/capstan/partition"
)

// Event is one of MemberChanged, Joined, JoinFailed, Refused, Logged and Dropped.
type Event interface{ event() }

// MemberChanged tells of a member that came, went, or says something new of itself.
type MemberChanged struct{ Member Member }

// Joined tells that states were exchanged with a join address.
type Joined struct{ Address string }

// JoinFailed tells of a join address that did not resolve or answer; it is tried
// again.
type JoinFailed struct {
	Address string
	Err     error
}

// Refused tells of a node of another cluster that was not let in; once for each.
type Refused struct {
	ID        partition.NodeID
	ClusterID string
}

// Logged is a line of serf or memberlist that is no debug line.
type Logged struct {
	// Level is "INFO", "WARN" or "ERR".
	Level, Text string
}

// Dropped tells how many events were lost because the listener was too slow.
type Dropped struct{ Events uint64 }

func (MemberChanged) event() {}
func (Joined) event()        {}
func (JoinFailed) event()    {}
func (Refused) event()       {}
func (Logged) event()        {}
func (Dropped) event()       {}

// eventQueue bounds the events that wait for the listener: those of a cluster of
// some dozens of nodes that starts all at once.
const eventQueue = 512

// events hands on what happens without ever making gossip wait.
type events struct {
	queue   chan Event
	dropped atomic.Uint64
}

func newEvents() *events { return &events{queue: make(chan Event, eventQueue)} }

func (e *events) send(event Event) {
	select {
	case e.queue <- event:
	default:
		e.dropped.Add(1)
	}
}

// deliver calls the listener until ctx ends, and then for what is queued.
func (e *events) deliver(ctx context.Context, listener func(Event)) {
	one := func(event Event) {
		if lost := e.dropped.Swap(0); lost > 0 {
			listener(Dropped{lost})
		}
		listener(event)
	}
	for {
		select {
		case event := <-e.queue:
			one(event)
		case <-ctx.Done():
			for {
				select {
				case event := <-e.queue:
					one(event)
				default:
					return
				}
			}
		}
	}
}

// logWriter makes events of log lines such as "[WARN] memberlist: text".
type logWriter struct{ events *events }

func (w logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level, rest, ok := strings.Cut(strings.TrimPrefix(text, "["), "] ")
	switch {
	case !ok || !strings.HasPrefix(text, "["):
		w.events.send(Logged{"WARN", text})
	case level != "DEBUG":
		w.events.send(Logged{level, rest})
	}
	return len(line), nil
}
