package nemesis

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Group is a name for several kinds.
type Group struct {
	Name  string
	What  string   // in one line
	Kinds []string // in order of their names
	one   bool     // any one of them stands for the group; else each comes
}

func (g Group) name() string { return g.Name }

// Groups are all there are. One that is named in the singular is one of its kinds each
// time, by chance; in the plural each of them comes. Of those that a cluster
// allows: a group is never refused for one of its kinds.
//
// No group has wipe: a replica whose disk was emptied is not replaced yet, so
// faults that come after it hit a cluster that can bear fewer.
func Groups() []Group {
	cuts := []string{"bridge", "cut-halves", "cut-leader", "cut-minority", "cut-one", "flapping", "isolate", "majorities-ring", "one-way", "one-way-leader"}
	links := []string{"duplicate", "lossy", "narrow", "slow"}
	kills := []string{"kill-all", "kill-leader", "kill-minority", "kill-one", "rolling-restart"}
	pauses := []string{"pause-leader", "pause-majority", "pause-one", "stutter"}
	clocks := []string{"clock-drift", "clock-jump"}
	disks := []string{"disk-full", "fsync-error", "power-cut", "slow-fsync"}
	var every []string
	for _, k := range kinds {
		if !k.once {
			every = append(every, k.Name)
		}
	}
	return []Group{
		{"all", "each of all, without wipe", every, false},
		{"clock", "a clock jumps or drifts", clocks, true},
		{"clocks", "each of those of clocks", clocks, false},
		{"cut", "any of the cuts", cuts, true},
		{"cuts", "each of the cuts", cuts, false},
		{"disk", "any of those of disks, without power-cut", []string{"disk-full", "fsync-error", "slow-fsync"}, true},
		{"disks", "each of those of disks, and power-cut", disks, false},
		{"kill", "one, the leader, a minority or all, killed or restarted", kills, true},
		{"kills", "each of the kills, and rolling-restart", kills, false},
		{"link", "links are slow, narrow, lossy, or duplicate", links, true},
		{"links", "each of those of links", links, false},
		{"pause", "the leader, one or a majority paused", pauses[:3], true},
		{"pauses", "each of the pauses, and stutter", pauses, false},
	}
}

// card stands for one event to come: one of the kinds.
type card []Kind

// deal finds what names stand for, where it can be done.
func deal(asked []string, l lab.Kind, faultBuild bool) (cards []card, failed error) {
	for _, name := range asked {
		group := Group{Kinds: []string{name}}
		for _, g := range Groups() {
			if g.Name == name {
				group = g
			}
		}
		var some card
		var refused error
		for _, name := range group.Kinds {
			k, err := Find(name)
			if err == nil {
				err = k.possible(l, faultBuild)
			}
			if err != nil {
				refused = errors.Join(refused, err)
				continue
			}
			some = append(some, k)
		}
		switch {
		case len(some) == 0:
			failed = errors.Join(failed, refused)
		case group.one:
			cards = append(cards, some)
		default:
			for _, k := range some {
				cards = append(cards, card{k})
			}
		}
	}
	return cards, failed
}

// Missed are those of the kinds that were asked for, by name or in a group of which
// each comes, and of groups of which any one does, that the schedule has nothing of:
// there was no time for them.
func (s Schedule) Missed(asked []string, l lab.Kind, faultBuild bool) (missed []string) {
	cards, err := deal(asked, l, faultBuild)
	if err != nil {
		return nil // nothing was planned
	}
	planned := s.Kinds()
	for _, some := range cards {
		if !slices.ContainsFunc(some, func(k Kind) bool { return slices.Contains(planned, k.Name) }) {
			missed = append(missed, strings.Join(called(some), " or "))
		}
	}
	slices.Sort(missed)
	return slices.Compact(missed)
}

// Available says which of the kinds and groups cannot be done in a lab of a kind,
// with a binary that is a fault build or is not, and why. Of a group it is enough
// that one can.
func Available(asked []string, l lab.Kind, faultBuild bool) error {
	if len(asked) == 0 {
		return fmt.Errorf("no nemesis is named: there are %q", called(kinds))
	}
	_, err := deal(asked, l, faultBuild)
	return err
}
