package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// controlVariable names the control file to a process of a fault build.
const controlVariable = "CAPSTAN_FAULT_CONTROL"

// maxCountersBytes bounds what is read of a file that a process wrote. It takes a
// few hundred.
const maxCountersBytes = 64 << 10

// ErrNoFaultBuild: clocks and disks can be bent in a build with planted faults only.
var ErrNoFaultBuild = errors.New("the binary is no fault build: its clock and disk cannot be bent")

// Control is how the clock and the disk of one node are bent. The zero Control is
// good ones.
type Control struct {
	ClockOffsetMillis int64 `json:"clock_offset_ms,omitempty"`
	ClockDriftPPM     int64 `json:"clock_drift_ppm,omitempty"` // from when it was set
	DiskFull          bool  `json:"disk_full,omitempty"`       // writes fail
	SyncDelayMillis   int64 `json:"sync_delay_ms,omitempty"`   // each sync takes that much longer
	SyncError         bool  `json:"sync_error,omitempty"`      // each sync fails
}

// Counters are what a bent clock and disk did to a node so far, in all of its
// processes. The last of one that was killed may be missing.
type Counters struct {
	SyncDelayed  uint64 `json:"sync_delayed,omitempty"`
	SyncFailed   uint64 `json:"sync_failed,omitempty"`
	WriteRefused uint64 `json:"write_refused,omitempty"`
	ClockReads   uint64 `json:"clock_reads,omitempty"` // of a clock that was bent
}

// Plus is the sum of both.
func (c Counters) Plus(o Counters) Counters {
	return Counters{c.SyncDelayed + o.SyncDelayed, c.SyncFailed + o.SyncFailed, c.WriteRefused + o.WriteRefused, c.ClockReads + o.ClockReads}
}

// Since is what came after o. Nothing counts below zero.
func (c Counters) Since(o Counters) Counters {
	less := func(a, b uint64) uint64 { return max(a, b) - b }
	return Counters{less(c.SyncDelayed, o.SyncDelayed), less(c.SyncFailed, o.SyncFailed), less(c.WriteRefused, o.WriteRefused), less(c.ClockReads, o.ClockReads)}
}

// bends are the files through which one node is bent. The node's lock guards them.
type bends struct {
	file     string // the control; counters stand beside it
	volatile bool
	number   uint64   // of the control there is
	past     Counters // of processes before this one
}

// controlFile is the file that a process obeys.
type controlFile struct {
	Generation uint64 `json:"generation"`
	Control
	Volatile bool `json:"volatile,omitempty"`
}

// countersFile is what a process says of itself.
type countersFile struct {
	PID      int    `json:"pid"`
	Seen     uint64 `json:"seen"` // generation of the control that it obeys
	Volatile bool   `json:"volatile"`
	Counters
}

// write has the process obey a control, some time soon. The file is whole at any
// moment.
func (b *bends) write(c Control) error {
	b.number++
	text, err := json.Marshal(controlFile{Generation: b.number, Control: c, Volatile: b.volatile})
	if err != nil {
		return err
	}
	next := b.file + ".next"
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, b.file)
}

func (b *bends) counters() string { return b.file + ".counters" }

// read is what a process of this number has written last; false: nothing yet.
func (b *bends) read(pid int) (countersFile, bool, error) {
	file, err := os.Open(b.counters())
	if errors.Is(err, os.ErrNotExist) {
		return countersFile{}, false, nil
	}
	if err != nil {
		return countersFile{}, false, err
	}
	defer file.Close()
	text := make([]byte, maxCountersBytes)
	n, err := file.Read(text)
	if err != nil {
		return countersFile{}, false, fmt.Errorf("%s: %w", b.counters(), err)
	}
	c, err := decodeCounters(text[:n])
	if err != nil {
		return countersFile{}, false, fmt.Errorf("%s: %w", b.counters(), err)
	}
	return c, c.PID == pid, nil
}

func decodeCounters(text []byte) (c countersFile, err error) {
	err = json.Unmarshal(text, &c)
	return c, err
}

// ended adds what a process counted to that of those before it: the next one counts
// from nothing.
func (b *bends) ended(pid int) error {
	c, its, err := b.read(pid)
	if err == nil && its {
		b.past = b.past.Plus(c.Counters)
	}
	return err
}

// Bend has the node's clock and disk follow a control, from soon on, also in
// processes that are started later. It is ErrNoFaultBuild if they cannot be bent.
func (n *Node) Bend(c Control) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bends == nil {
		return n.failed("bend", ErrNoFaultBuild)
	}
	if err := n.bends.write(c); err != nil {
		return n.failed("bend", err)
	}
	return nil
}

// Obeys reports whether the node's process follows what it was last told by Bend. It
// is ErrNoFaultBuild if it can be told nothing.
func (n *Node) Obeys() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, its, err := n.told()
	return its && c.Seen == n.bends.number && n.process.Running(), err
}

// Forgets reports whether the disk of the node's process loses with it what was not
// synced: see Config.Volatile. Without a fault build it never does.
func (n *Node) Forgets() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bends == nil {
		return false, nil
	}
	c, its, err := n.told()
	return its && c.Volatile, err
}

// Bent is what bending did so far. It is ErrNoFaultBuild if nothing can be bent.
func (n *Node) Bent() (Counters, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, its, err := n.told()
	if err != nil {
		return Counters{}, err
	}
	if !its { // it was added to those before it, or has not begun
		return n.bends.past, nil
	}
	return n.bends.past.Plus(c.Counters), nil
}

// told is what the latest process says of itself; false: nothing yet.
func (n *Node) told() (countersFile, bool, error) {
	if n.bends == nil {
		return countersFile{}, false, n.failed("bent", ErrNoFaultBuild)
	}
	if n.process == nil {
		return countersFile{}, false, nil
	}
	c, its, err := n.bends.read(n.process.PID())
	if err != nil {
		return countersFile{}, false, n.failed("bent", err)
	}
	return c, its, nil
}
