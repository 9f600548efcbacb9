package nemesis

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// MaxEvents bounds a schedule.
const MaxEvents = 10_000

// Event is one fault: for a while, links follow a rule. Durations are nanoseconds
// in JSON.
type Event struct {
	At    time.Duration `json:"at"`  // since the run began
	For   time.Duration `json:"for"` // then the links are good again
	Kind  string        `json:"kind"`
	Rule  lab.Rule      `json:"rule"`
	Links []lab.Link    `json:"links"`
}

// Schedule is faults one after another: the next begins when the one before has
// ended, or later.
type Schedule []Event

// Config says what to plan.
type Config struct {
	Seed   uint64
	Nodes  []string
	Kinds  []string      // each fault is one of them, by chance
	Length time.Duration // of the run; all is good again before its end
	Quiet  time.Duration // before each fault, and after the last one; above 0
	Fault  time.Duration // how long one lasts; above 0
}

// Plan draws a schedule. The same Config gives the same.
func Plan(c Config) (Schedule, error) {
	var kinds []Kind
	for _, name := range c.Kinds {
		k, err := Find(name)
		if err != nil {
			return nil, err
		}
		if len(c.Nodes) < k.Least {
			return nil, fmt.Errorf("nemesis %s needs %d nodes, not %d", name, k.Least, len(c.Nodes))
		}
		kinds = append(kinds, k)
	}
	if len(kinds) == 0 || c.Quiet <= 0 || c.Fault <= 0 || c.Length/(c.Quiet+c.Fault) > MaxEvents {
		return nil, fmt.Errorf("a plan has a nemesis, quiet and faults, and at most %d of these: %+v", MaxEvents, c)
	}
	random := rand.New(rand.NewPCG(c.Seed, 0))
	var s Schedule
	for at := c.Quiet; at+c.Fault+c.Quiet <= c.Length; at += c.Fault + c.Quiet {
		k := kinds[random.IntN(len(kinds))]
		links, rule := k.fault(c.Nodes, random)
		s = append(s, Event{At: at, For: c.Fault, Kind: k.Name, Rule: rule, Links: links})
	}
	return s, nil
}

// Check says what is wrong with a schedule for these nodes.
func (s Schedule) Check(nodes []string) error {
	if len(s) > MaxEvents {
		return fmt.Errorf("%d events: at most %d", len(s), MaxEvents)
	}
	var free time.Duration
	for i, e := range s {
		if e.At < free || e.For <= 0 || e.At+e.For < e.At {
			return fmt.Errorf("event %d: at %s for %s, and the one before ends at %s", i+1, e.At, e.For, free)
		}
		free = e.At + e.For
		if err := e.Rule.Validate(); err != nil {
			return fmt.Errorf("event %d: %w", i+1, err)
		}
		if len(e.Links) == 0 {
			return fmt.Errorf("event %d: no links", i+1)
		}
		for _, l := range e.Links {
			if l.From == l.To || !slices.Contains(nodes, l.From) || !slices.Contains(nodes, l.To) {
				return fmt.Errorf("event %d: no link %s among %q", i+1, l, nodes)
			}
		}
	}
	return nil
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
	in := json.NewDecoder(bufio.NewReader(from))
	in.DisallowUnknownFields()
	var s Schedule
	for {
		var e Event
		err := in.Decode(&e)
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("event %d of the schedule: %w", len(s)+1, err)
		}
		if s = append(s, e); len(s) > MaxEvents {
			return nil, fmt.Errorf("more than %d events", MaxEvents)
		}
	}
}

func compare(a, b lab.Link) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
}
