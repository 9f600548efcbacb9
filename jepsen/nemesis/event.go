package nemesis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Ways of a leader's links.
const (
	Inward  = "in"  // it hears no other node
	Outward = "out" // no other node hears it
)

// leastTurn bounds how often a fault comes and goes within one event.
const leastTurn = 10 * time.Millisecond

// Event is one fault. Its kind says what is done; of the fields below it, those that
// the kind has no use for are unset. Durations are nanoseconds in JSON.
type Event struct {
	At   time.Duration `json:"at"`  // since the run began
	For  time.Duration `json:"for"` // then what was hit is good again
	Kind string        `json:"kind"`

	// Rule is what Links follow.
	Rule  lab.Rule   `json:"rule,omitzero"`
	Links []lab.Link `json:"links,omitempty"`
	// Nodes whose process, clock or disk is hit.
	Nodes []string `json:"nodes,omitempty"`
	// Leader is a partition. Instead of Nodes or Links, who leads it when the event
	// begins is hit, or its links from and to all other nodes; those of one Way only,
	// if that is set.
	Leader *int   `json:"leader,omitempty"`
	Way    string `json:"way,omitempty"`
	// On and Off: the fault comes and goes, while the event lasts. Each time anew it
	// is found who leads.
	On  time.Duration `json:"on,omitempty"`
	Off time.Duration `json:"off,omitempty"`
	// Bend is what clock and disk of Nodes follow.
	Bend cluster.Control `json:"bend,omitzero"`
}

func (e Event) end() time.Duration { return e.At + e.For }

// String is the event in one line, for people.
func (e Event) String() string {
	text := fmt.Sprintf("at %s for %s: %s", round(e.At), round(e.For), e.Kind)
	switch {
	case e.Leader != nil:
		text += fmt.Sprintf(" of partition %d", *e.Leader)
	case len(e.Nodes) > 0:
		text += " " + strings.Join(e.Nodes, " ")
	case len(e.Links) > 0:
		text += " " + shortly(e.Links)
	}
	if e.Way != "" {
		text += ", " + e.Way + "ward only"
	}
	if e.On > 0 {
		text += fmt.Sprintf(", %s on, %s off", round(e.On), round(e.Off))
	}
	if b := bending(e.Bend); b != "" {
		text += ", " + b
	}
	return text
}

// bending is a control in a few words.
func bending(c cluster.Control) string {
	var said []string
	if c.ClockOffsetMillis != 0 {
		said = append(said, fmt.Sprintf("clock %+d ms", c.ClockOffsetMillis))
	}
	if c.ClockDriftPPM != 0 {
		said = append(said, fmt.Sprintf("clock %+d ppm", c.ClockDriftPPM))
	}
	if c.DiskFull {
		said = append(said, "disk full")
	}
	if c.SyncDelayMillis != 0 {
		said = append(said, fmt.Sprintf("syncs take %d ms more", c.SyncDelayMillis))
	}
	if c.SyncError {
		said = append(said, "syncs fail")
	}
	return strings.Join(said, ", ")
}

// shortly names links by their ends, where that tells all: "n1 n2 | n3 n4 n5".
func shortly(links []lab.Link) string {
	to := map[string][]string{}
	var froms []string
	for _, l := range links {
		if to[l.From] == nil {
			froms = append(froms, l.From)
		}
		to[l.From] = append(to[l.From], l.To)
	}
	slices.Sort(froms)
	if groups := apart(froms, links); len(groups) > 1 && len(links) == len(between(groups[0], groups[1])) && len(groups) == 2 {
		return strings.Join(groups[0], " ") + " | " + strings.Join(groups[1], " ")
	}
	var said []string
	for _, from := range froms {
		slices.Sort(to[from])
		said = append(said, from+"->"+strings.Join(to[from], ","))
	}
	return strings.Join(said, " ")
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// check says what is wrong with an event, by itself.
func (e Event) check(nodes []string, partitions int) error {
	k, err := Find(e.Kind)
	if err != nil {
		return err
	}
	switch {
	case e.At < 0 || e.For <= 0 || e.end() < e.At:
		return fmt.Errorf("at %s for %s", e.At, e.For)
	case (e.On != 0 || e.Off != 0) && (e.On < leastTurn || e.Off < leastTurn || k.act != shape && k.act != pause):
		return fmt.Errorf("on for %s, off for %s: either neither is set, or both are %s and more, of a kind that comes and goes", e.On, e.Off, leastTurn)
	case e.Leader != nil && (*e.Leader < 0 || *e.Leader >= partitions || k.act != shape && k.act != kill && k.act != pause):
		return fmt.Errorf("leader of partition %d, of %d", *e.Leader, partitions)
	case e.Way != "" && (e.Leader == nil || k.act != shape || e.Way != Inward && e.Way != Outward):
		return fmt.Errorf("way %q: it is %q or %q, of a leader's links", e.Way, Inward, Outward)
	}
	if err := e.checkHit(k, nodes); err != nil {
		return err
	}
	return e.checkDone(k)
}

// checkHit says what is wrong with what is hit.
func (e Event) checkHit(k Kind, nodes []string) error {
	links, hit := len(e.Links) > 0, len(e.Nodes) > 0
	if k.act == shape && hit || k.act != shape && links || (links || hit) == (e.Leader != nil) {
		return fmt.Errorf("%d links, %d nodes: a network fault has links, others have nodes, and neither has any where a leader is hit", len(e.Links), len(e.Nodes))
	}
	if k.act == wipe && len(e.Nodes) != 1 {
		return fmt.Errorf("%d disks are wiped: at most one is", len(e.Nodes))
	}
	seen := map[string]bool{}
	for _, n := range e.Nodes {
		if seen[n] || !slices.Contains(nodes, n) {
			return fmt.Errorf("node %q: it is one of %q, and once", n, nodes)
		}
		seen[n] = true
	}
	way := map[lab.Link]bool{}
	for _, l := range e.Links {
		known := func(name string) bool { return name == lab.Clients || slices.Contains(nodes, name) }
		if l.From == l.To || !known(l.From) || !known(l.To) || way[l] {
			return fmt.Errorf("link %s: it is among %q and %q, and once", l, nodes, lab.Clients)
		}
		way[l] = true
	}
	if k.need == needsCuts {
		for _, l := range e.Links {
			if !way[lab.Link{From: l.To, To: l.From}] {
				return fmt.Errorf("only %s: %s cuts both ways", l, k.Name)
			}
		}
	}
	return nil
}

// checkDone says what is wrong with what is done.
func (e Event) checkDone(k Kind) error {
	if (k.act == shape) == (e.Rule == lab.Rule{}) {
		return fmt.Errorf("rule %+v: network faults have one, others none", e.Rule)
	}
	if k.need == needsCuts && e.Rule != cut {
		return fmt.Errorf("rule %+v: %s cuts", e.Rule, k.Name)
	}
	if (k.act == bend) == (e.Bend == cluster.Control{}) {
		return fmt.Errorf("bend %+v: faults of clocks and disks have one, others none", e.Bend)
	}
	return errors.Join(e.Rule.Validate(), checkBend(e.Bend))
}
