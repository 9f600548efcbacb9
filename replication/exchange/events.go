package exchange

import (
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// Event is something a listener may want to know. The concrete types are the
// structs below. A listener is called from many goroutines, some of them on the
// way of requests: it must not block and must not call back.
type Event interface{ event() }

type (
	// WriteAccepted: this node has accepted a write, and Held nodes have it on disk.
	WriteAccepted struct {
		Partition partition.ID
		Held      int
		Hint      bool // this node holds it, without a replica
	}
	// WriteRefused: a write was not accepted, or fewer nodes than asked for are
	// known to hold it.
	WriteRefused struct {
		Partition partition.ID
		Err       error
	}
	// HandedIn: writes that this node held are decided.
	HandedIn struct {
		Partition partition.ID
		Leader    partition.NodeID
		Writes    int
		// Lags are of those writes that this node accepted itself: from then
		// until the leader's answer, to the millisecond, by this node's clock.
		Lags []time.Duration
	}
	// HandInFailed: a leader did not take a batch; it will be tried again.
	HandInFailed struct {
		Partition partition.ID
		Leader    partition.NodeID
		Writes    int
		Err       error
	}
	// Sent: another holder lacked writes and was given them.
	Sent struct {
		Partition partition.ID
		To        partition.NodeID
		Writes    int
	}
	// Received: writes that this node did not hold came from another holder.
	Received struct {
		Partition partition.ID
		From      partition.NodeID
		Writes    int
	}
	// LogFailed: the tentative log did not do what was asked for and could not
	// be left undone without a word. The database tells its own trouble too.
	LogFailed struct {
		Partition partition.ID
		Err       error
	}
)

func (WriteAccepted) event() {}
func (WriteRefused) event()  {}
func (HandedIn) event()      {}
func (HandInFailed) event()  {}
func (Sent) event()          {}
func (Received) event()      {}
func (LogFailed) event()     {}

func (x *Exchange) emit(e Event) {
	if x.cfg.Events != nil {
		x.cfg.Events(e)
	}
}
