package nemesis

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Bounds of a schedule.
const (
	MaxEvents = 10_000
	maxBytes  = 64 << 20 // that Read takes
)

// Schedule is faults in the order in which they begin. They may overlap.
type Schedule []Event

// Check says what is wrong with a schedule for these nodes and so many partitions.
func (s Schedule) Check(nodes []string, partitions int) error {
	if len(s) > MaxEvents {
		return fmt.Errorf("%d events: at most %d", len(s), MaxEvents)
	}
	var last time.Duration
	wiped := 0
	for i, e := range s {
		if err := e.check(nodes, partitions); err != nil {
			return fmt.Errorf("event %d: %w", i+1, err)
		}
		if e.At < last {
			return fmt.Errorf("event %d: at %s, and the one before at %s", i+1, e.At, last)
		}
		last = e.At
		if k, _ := Find(e.Kind); k.once {
			wiped++
		}
	}
	if wiped > 1 {
		return fmt.Errorf("%d disks are wiped: at most one is, as its replicas are not replaced", wiped)
	}
	return nil
}

// Possible says which events cannot be done in a lab of a kind, with a binary that
// is a fault build or is not, and why.
func (s Schedule) Possible(l lab.Kind, faultBuild bool) (failed error) {
	told := map[string]bool{}
	for _, e := range s {
		k, err := Find(e.Kind)
		if err == nil {
			err = k.possible(l, faultBuild)
		}
		if err != nil && !told[e.Kind] {
			told[e.Kind] = true
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// Kinds are the kinds of its events, each once, in order of their first.
func (s Schedule) Kinds() (all []string) {
	seen := map[string]bool{}
	for _, e := range s {
		if !seen[e.Kind] {
			seen[e.Kind] = true
			all = append(all, e.Kind)
		}
	}
	return all
}

// Volatile reports whether disks have to lose what was not synced, for some event to
// be what its kind says: see cluster.Config.Volatile.
func (s Schedule) Volatile() bool {
	for _, e := range s {
		if e.Kind == "power-cut" {
			return true
		}
	}
	return false
}

// End is when all faults are over.
func (s Schedule) End() (end time.Duration) {
	for _, e := range s {
		end = max(end, e.end())
	}
	return end
}

// Write prints a schedule, an event a line of JSON.
func (s Schedule) Write(to io.Writer) error {
	out := json.NewEncoder(to)
	for _, e := range s {
		if err := out.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

// Read takes what Write printed. An unknown field is an error. It does not Check.
func Read(from io.Reader) (Schedule, error) {
	bounded := &io.LimitedReader{R: from, N: maxBytes + 1}
	in := json.NewDecoder(bufio.NewReader(bounded))
	in.DisallowUnknownFields()
	var s Schedule
	for {
		var e Event
		err := in.Decode(&e)
		switch {
		case bounded.N == 0:
			return nil, fmt.Errorf("a schedule of more than %d bytes", maxBytes)
		case errors.Is(err, io.EOF):
			return s, nil
		case err != nil:
			return nil, fmt.Errorf("event %d of the schedule: %w", len(s)+1, err)
		}
		if s = append(s, e); len(s) > MaxEvents {
			return nil, fmt.Errorf("more than %d events", MaxEvents)
		}
	}
}
