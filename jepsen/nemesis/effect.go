package nemesis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Phase of an event.
type Phase string

// The phases that Target.Events is told of.
const (
	Begin Phase = "begin" // it is in force
	End   Phase = "end"
)

// Bounds of what an effect says of what went otherwise than planned.
const (
	maxNotes = 10
	maxNote  = 200 // bytes
)

// Effect is what came of an event. What two events did to the same links or nodes at
// one time is counted for both.
type Effect struct {
	Number int       `json:"number"` // of the event in the schedule, from 0
	Event  Event     `json:"event"`
	Began  time.Time `json:"began"` // before it was in force
	Ended  time.Time `json:"ended"` // all is good again, but nodes may still start
	// Nodes and Links that were hit: of a leader, those of whoever led. Of a cut, Nodes
	// are the smaller side, if there are sides.
	Nodes []string   `json:"nodes,omitempty"`
	Links []lab.Link `json:"links,omitempty"`
	// Apart are, while a cut is in force, the groups of nodes that still reach each
	// other whole, smaller ones first, if it makes such groups. Nodes that nobody is
	// cut off from are in none.
	Apart [][]string `json:"apart,omitempty"`

	// Frames on the links while they followed the rule. Held are those that were
	// neither cut nor lost, where a rule holds frames back.
	Cut        uint64 `json:"cut,omitempty"`
	Lost       uint64 `json:"lost,omitempty"`
	Duplicated uint64 `json:"duplicated,omitempty"`
	Held       uint64 `json:"held,omitempty"`
	Overflowed uint64 `json:"overflowed,omitempty"` // dropped by a narrow link
	// Severed are nodes that said they talk to others no more, where links cannot be
	// touched.
	Severed int `json:"severed,omitempty"`

	Killed int `json:"killed,omitempty"` // processes that were gone
	// Forgetful are those of the killed whose disk lost what was not synced.
	Forgetful int `json:"forgetful,omitempty"`
	Restarted int `json:"restarted,omitempty"` // nodes that ended in order and were started
	Started   int `json:"started,omitempty"`   // processes that run again
	Paused    int `json:"paused,omitempty"`    // times that a process stood
	Wiped     int `json:"wiped,omitempty"`
	Obeyed    int `json:"obeyed,omitempty"` // nodes whose process said that it is bent
	// Bent is what clocks and disks did meanwhile.
	Bent cluster.Counters `json:"bent,omitzero"`

	// Notes say what went otherwise than planned, though the run could go on.
	Notes []string `json:"notes,omitempty"`
}

// Felt reports whether the fault did anything to anybody.
func (e Effect) Felt() bool {
	switch k, _ := Find(e.Event.Kind); k.act {
	case shape:
		return e.Cut+e.Lost+e.Duplicated+e.Held+e.Overflowed > 0 || e.Severed > 0
	case kill:
		return e.Killed > 0 && (k.need != needsFaultBuild || e.Forgetful > 0)
	case restart:
		return e.Restarted > 0
	case pause:
		return e.Paused > 0
	case wipe:
		return e.Wiped > 0
	case bend:
		b, c := e.Event.Bend, e.Bent
		return (b.ClockOffsetMillis != 0 || b.ClockDriftPPM != 0) && c.ClockReads > 0 ||
			b.DiskFull && c.WriteRefused > 0 || b.SyncDelayMillis > 0 && c.SyncDelayed > 0 || b.SyncError && c.SyncFailed > 0
	}
	return false
}

// ClientsToo reports whether clients are cut off from some node.
func (e Effect) ClientsToo() bool {
	return e.Event.Rule.Cut && slices.ContainsFunc(e.Links, func(l lab.Link) bool { return l.From == lab.Clients || l.To == lab.Clients })
}

// Hit is the kind and who was hit, in a few words.
func (e Effect) Hit() string {
	text := e.Event.Kind
	switch {
	case len(e.Apart) == 2:
		text += " " + strings.Join(e.Apart[0], " ") + " | " + strings.Join(e.Apart[1], " ")
	case len(e.Nodes) > 0:
		text += " " + strings.Join(e.Nodes, " ")
	}
	if b := bending(e.Event.Bend); b != "" {
		text += ", " + b
	}
	return text
}

// Did says what the fault did, in a few words.
func (e Effect) Did() string {
	var said []string
	for _, c := range []struct {
		count uint64
		one   string
		many  string
	}{
		{e.Cut, "frame cut", "frames cut"},
		{e.Lost, "frame lost", "frames lost"},
		{e.Duplicated, "frame duplicated", "frames duplicated"},
		{e.Held, "frame held back", "frames held back"},
		{e.Overflowed, "frame too many", "frames too many"},
		{uint64(e.Severed), "node severed", "nodes severed"},
		{uint64(e.Killed), "process killed", "processes killed"},
		{uint64(e.Forgetful), "disk lost what was not synced", "disks lost what was not synced"},
		{uint64(e.Restarted), "node restarted", "nodes restarted"},
		{uint64(e.Wiped), "disk wiped", "disks wiped"},
		{uint64(e.Started), "started again", "started again"},
		{uint64(e.Paused), "pause", "pauses"},
		{uint64(e.Obeyed), "node bent", "nodes bent"},
		{e.Bent.ClockReads, "time read", "times read"},
		{e.Bent.WriteRefused, "write refused", "writes refused"},
		{e.Bent.SyncDelayed, "sync delayed", "syncs delayed"},
		{e.Bent.SyncFailed, "sync failed", "syncs failed"},
	} {
		switch c.count {
		case 0:
		case 1:
			said = append(said, "1 "+c.one)
		default:
			said = append(said, fmt.Sprintf("%d %s", c.count, c.many))
		}
	}
	if !e.Felt() {
		said = append(said, "no effect")
	}
	return strings.Join(append(said, e.Notes...), ", ")
}

// String is the effect in one line, for people.
func (e Effect) String() string {
	return fmt.Sprintf("%s for %s: %s", e.Hit(), round(e.Ended.Sub(e.Began)), e.Did())
}

func (e *Effect) note(format string, args ...any) {
	text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
	text = strings.ToValidUTF8(text[:min(len(text), maxNote)], "")
	if len(e.Notes) < maxNotes && !slices.Contains(e.Notes, text) {
		e.Notes = append(e.Notes, text)
	}
}

// hits notes nodes that are hit, each once.
func (e *Effect) hits(nodes ...string) {
	for _, n := range nodes {
		if !slices.Contains(e.Nodes, n) {
			e.Nodes = append(e.Nodes, n)
		}
	}
	slices.Sort(e.Nodes)
}

// carried adds what links carried between two moments.
func (e *Effect) carried(from, to lab.Traffic) {
	cut, lost := to.Cut-from.Cut, to.Lost-from.Lost
	e.Cut, e.Lost = e.Cut+cut, e.Lost+lost
	e.Duplicated += to.Duplicated - from.Duplicated
	e.Overflowed += to.Overflowed - from.Overflowed
	if r := e.Event.Rule; r.Delay > 0 || r.Jitter > 0 || r.Rate > 0 {
		e.Held += max(to.Sent-from.Sent, cut+lost) - cut - lost
	}
}
