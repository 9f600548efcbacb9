package nemesis

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// everything has all that any kind needs.
func everything(kinds ...string) Config {
	return Config{
		Seed: 5, Nodes: nodes(5), Partitions: 4, Kinds: kinds, Lab: lab.Namespaces, FaultBuild: true,
		Length: 60 * time.Second, Quiet: 2 * time.Second, Fault: 5 * time.Second,
	}
}

// Every kind makes a schedule that its own check takes, with as few nodes as it
// says, and not with fewer.
func TestPlan(t *testing.T) {
	for _, k := range Kinds() {
		c := everything(k.Name)
		c.Nodes = nodes(k.Least)
		s, err := Plan(c)
		want := 8
		if k.once {
			want = 1
		} else if k.act == restart {
			want = 4 // each lasts for two
		}
		if err != nil || len(s) != want {
			t.Fatalf("%s: %d events, %v", k.Name, len(s), err)
		}
		if err := errors.Join(s.Check(c.Nodes, c.Partitions), s.Possible(c.Lab, c.FaultBuild)); err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
		if s.End()+c.Quiet > c.Length || s.End() < 50*time.Second {
			t.Errorf("%s: the last one is %+v", k.Name, s[len(s)-1])
		}
		c.Nodes = c.Nodes[1:]
		if _, err := Plan(c); err == nil {
			t.Errorf("%s is planned for %d nodes", k.Name, len(c.Nodes))
		}
	}
	for what, change := range map[string]func(*Config){
		"kind": func(c *Config) { c.Kinds = []string{"none"} }, "no kind": func(c *Config) { c.Kinds = nil },
		"quiet": func(c *Config) { c.Quiet = 0 }, "fault": func(c *Config) { c.Fault = -1 }, "many": func(c *Config) { c.Length = 1 << 62 },
		"short": func(c *Config) { c.Length = 8 * time.Second }, "no partition": func(c *Config) { c.Partitions = 0 }, "overlap": func(c *Config) { c.Overlap = 2 },
		"long": func(c *Config) { c.Fault, c.Quiet = 1<<62, 1<<62 },
	} {
		bad := everything("slow")
		if change(&bad); true {
			if s, err := Plan(bad); err == nil {
				t.Errorf("planned: %s, %v", what, s)
			}
		}
	}
}

// Any plan passes its own check, has all good again in time, and never two faults
// where none are to overlap.
func TestPlansFit(t *testing.T) {
	var all []string
	for _, k := range Kinds() {
		all = append(all, k.Name)
	}
	for _, g := range Groups() {
		all = append(all, g.Name)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := everything(rapid.SliceOfN(rapid.SampledFrom(all), 1, 5).Draw(t, "kinds")...)
		c.Seed, c.Nodes = rapid.Uint64().Draw(t, "seed"), nodes(rapid.IntRange(4, 9).Draw(t, "nodes"))
		c.Lab = rapid.SampledFrom([]lab.Kind{lab.Namespaces, lab.Loopback}).Draw(t, "lab")
		c.FaultBuild = rapid.Bool().Draw(t, "fault build")
		c.Length = time.Duration(rapid.Int64Range(int64(9*time.Second), int64(5*time.Minute)).Draw(t, "length"))
		c.Overlap = rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "overlap")
		s, err := Plan(c)
		if unavailable := Available(c.Kinds, c.Lab, c.FaultBuild); (err != nil) != (unavailable != nil) {
			t.Fatalf("%v, but %v", err, unavailable)
		}
		if err != nil {
			return
		}
		if err := errors.Join(s.Check(c.Nodes, c.Partitions), s.Possible(c.Lab, c.FaultBuild)); err != nil {
			t.Fatal(err)
		}
		if s.End()+c.Quiet > c.Length || s[0].At < c.Quiet || len(s) == 0 {
			t.Fatalf("of %s: %v", c.Length, s)
		}
		overlap, step := 0, c.Quiet+c.Fault
		for i, e := range s {
			if i > 0 && s[i-1].end() > e.At {
				overlap++
				if (s[i-1].At-c.Quiet)/step != (e.At-c.Quiet)/step {
					t.Fatalf("it begins in one before: %v", s)
				}
				if hides(s[i-1], e) || hides(e, s[i-1]) {
					t.Fatalf("nobody leads: %v", s)
				}
				if stills(s[i-1], e) {
					t.Fatalf("nobody is hit: %v", s)
				}
				if e.Kind == "rolling-restart" && e.For < c.Fault {
					t.Fatalf("nodes have no time to restart: %v", s)
				}
			}
			if e.end()-c.Quiet-(e.At-c.Quiet)/step*step > c.Fault && (e.Kind != "rolling-restart" || e.For > step+c.Fault) {
				t.Fatalf("it reaches into the next: %v", s)
			}
		}
		if overlap > 0 && c.Overlap == 0 {
			t.Fatalf("%d overlap at chance %v: %v", overlap, c.Overlap, s)
		}
	})
}

func TestOverlap(t *testing.T) {
	c := everything("cut-halves", "pause-leader", "pause-one")
	for chance, want := range map[float64]int{0: 8, 1: 16} {
		c.Overlap = chance
		s, err := Plan(c)
		if err != nil || len(s) != want {
			t.Errorf("chance %v: %d events, want %d: %v", chance, len(s), want, err)
		}
	}
}

// While nobody can lead no leader is looked for. Whose turn it would have been comes
// next.
func TestLeadersAreNotHidden(t *testing.T) {
	c := everything("kill-all", "kill-leader", "pause-majority", "cut-leader")
	c.Overlap = 1
	for c.Seed = range uint64(50) {
		s, err := Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for i, e := range s {
			if seen[e.Kind]++; i > 0 && s[i-1].end() > e.At && (e.Leader == nil) != (s[i-1].Leader == nil) {
				t.Fatalf("seed %d: %v overlaps %v", c.Seed, e, s[i-1])
			}
		}
		least, most := len(s), 0
		for _, n := range seen {
			least, most = min(least, n), max(most, n)
		}
		if len(s) < 9 || len(seen) != 4 || most-least > 1 {
			t.Fatalf("seed %d: %v", c.Seed, seen)
		}
	}
}

// Who is down already can not be hit: the fault would have no effect, and the run
// would say nothing.
func TestStilled(t *testing.T) {
	event := func(kind string, at, length int, c cluster.Control, nodes ...string) Event {
		return Event{Kind: kind, At: time.Duration(at) * time.Second, For: time.Duration(length) * time.Second, Bend: c, Nodes: nodes}
	}
	full, slow := cluster.Control{DiskFull: true}, cluster.Control{SyncDelayMillis: 500}
	for name, c := range map[string]struct {
		a, b Event
		want bool
	}{
		"a disk that ended its node":       {event("disk-full", 4, 6, full, "n1", "n2"), event("slow-fsync", 5, 4, slow, "n2"), true},
		"killed, then bent":                {event("kill-one", 4, 6, cluster.Control{}, "n1"), event("slow-fsync", 5, 4, slow, "n1"), true},
		"killed twice":                     {event("kill-minority", 4, 6, cluster.Control{}, "n1", "n2"), event("kill-one", 5, 4, cluster.Control{}, "n1"), true},
		"ended, then stopped":              {event("fsync-error", 4, 6, cluster.Control{SyncError: true}, "n1"), event("pause-one", 5, 4, cluster.Control{}, "n1"), true},
		"paused, then bent":                {event("pause-one", 4, 6, cluster.Control{}, "n1"), event("slow-fsync", 5, 4, slow, "n1"), true},
		"paused, then killed":              {event("pause-one", 4, 6, cluster.Control{}, "n1"), event("kill-one", 5, 4, cluster.Control{}, "n1"), false},
		"one more node than is down":       {event("kill-one", 4, 6, cluster.Control{}, "n1"), event("slow-fsync", 5, 4, slow, "n1", "n2"), false},
		"longer than the outage":           {event("kill-all", 4, 2, cluster.Control{}, "n1", "n2", "n3"), event("slow-fsync", 5, 5, slow, "n1"), false},
		"slow, not down":                   {event("slow-fsync", 4, 6, slow, "n1"), event("disk-full", 5, 4, full, "n1"), false},
		"links of who is down are cut yet": {event("kill-one", 4, 6, cluster.Control{}, "n1"), event("cut-one", 5, 4, cluster.Control{}), false},
	} {
		if got := stills(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A rolling restart has its own time, and twice as much.
func TestRollingRestartsHaveTime(t *testing.T) {
	c := everything("rolling-restart", "slow", "lossy")
	c.Overlap, c.Length = 1, 2*time.Minute
	for c.Seed = range uint64(50) {
		s, err := Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		long := 0
		for i, e := range s {
			if e.Kind == "rolling-restart" && (e.For < c.Fault || i > 0 && s[i-1].end() > e.At) {
				t.Fatalf("seed %d: %v after %v", c.Seed, e, s[i-1])
			}
			if e.Kind == "rolling-restart" && e.For > c.Fault {
				long++
			}
		}
		if long < 2 {
			t.Fatalf("seed %d: only %d of them is long: %v", c.Seed, long, s)
		}
	}
}

// Each kind comes before any comes again. A group in the plural is all of its kinds,
// one in the singular is any.
func TestEachComes(t *testing.T) {
	c := everything("pauses", "cut-one", "slow")
	c.Length = 6*7*time.Second + 2*time.Second
	for c.Seed = range uint64(20) {
		s, err := Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		got := s.Kinds()
		slices.Sort(got)
		if want := []string{"cut-one", "pause-leader", "pause-majority", "pause-one", "slow", "stutter"}; !slices.Equal(got, want) {
			t.Fatalf("seed %d: %q, want %q", c.Seed, got, want)
		}
	}
	seen := map[string]bool{}
	c = everything("pause", "slow")
	for c.Seed = range uint64(20) {
		s, err := Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		slow := 0
		for _, e := range s {
			seen[e.Kind] = true
			if e.Kind == "slow" {
				slow++
			}
		}
		if slow != 4 {
			t.Fatalf("seed %d: %d of 8 are slow", c.Seed, slow)
		}
	}
	if len(seen) != 4 {
		t.Errorf("pause is only %v", seen)
	}
}

// A disk is wiped once, and last.
func TestWipeIsLast(t *testing.T) {
	s, err := Plan(everything("kill-one", "wipe", "slow"))
	if err != nil || len(s) != 8 {
		t.Fatalf("%v, %v", s, err)
	}
	for i, e := range s {
		if (e.Kind == "wipe") != (i == 7) {
			t.Errorf("event %d is %v", i, e)
		}
	}
	s = append(s, s[7])
	if s.Check(nodes(5), 4) == nil {
		t.Error("two disks are wiped")
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		kinds string
		lab   lab.Kind
		build bool
		want  string // in the error; empty: none
	}{
		{"cut-halves,pause", lab.Namespaces, false, ""},
		{"cut-halves,pause", lab.Loopback, false, ""},
		{"slow", lab.Loopback, true, "slow needs links"},
		{"clock-jump", lab.Namespaces, false, "clock-jump needs a fault build"},
		{"clock-jump,power-cut,wipe", lab.Loopback, true, ""},
		{"all,cuts,disks", lab.Loopback, true, ""},
		{"disks", lab.Namespaces, false, "needs a fault build"},
		{"links", lab.Loopback, false, "needs links"},
		{"all", lab.Loopback, false, ""},
		{"pauses,paus", lab.Namespaces, true, `no nemesis "paus"`},
	} {
		err := Available(strings.Split(c.kinds, ","), c.lab, c.build)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s in %s, fault build %t: %v, want %q", c.kinds, c.lab, c.build, err, c.want)
		}
	}
	if Available(nil, lab.Namespaces, true) == nil {
		t.Error("nothing is available")
	}
}

// Groups name kinds that are there, and everything but wipe is in all.
func TestGroups(t *testing.T) {
	all := map[string]bool{}
	for _, g := range Groups() {
		if _, err := Find(g.Name); err == nil || !slices.IsSorted(g.Kinds) || g.What == "" {
			t.Errorf("%+v", g)
		}
		for _, name := range g.Kinds {
			find(t, name)
			if g.Name != "all" {
				all[name] = true
			}
		}
	}
	for _, k := range Kinds() {
		if all[k.Name] != (k.Name != "wipe") || k.What == "" {
			t.Errorf("%s is in a group: %t", k.Name, all[k.Name])
		}
	}
	if !slices.IsSortedFunc(Kinds(), func(a, b Kind) int { return strings.Compare(a.Name, b.Name) }) ||
		!slices.IsSortedFunc(Groups(), func(a, b Group) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("kinds or groups are not in order")
	}
}

// A schedule is the same for the same seed, and the same when it was printed and
// read.
func TestReplay(t *testing.T) {
	plan := func(seed uint64) (Schedule, string) {
		c := everything("all", "wipe")
		c.Seed, c.Length, c.Overlap = seed, 10*time.Minute, 0.5
		s, err := Plan(c)
		var text bytes.Buffer
		if err := errors.Join(err, s.Write(&text)); err != nil {
			t.Fatal(err)
		}
		return s, text.String()
	}
	s, text := plan(1)
	if _, again := plan(1); again != text {
		t.Error("one seed gives two schedules")
	}
	if _, other := plan(2); other == text {
		t.Error("two seeds give one schedule")
	}
	back, err := Read(strings.NewReader(text))
	if err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("read back: %v, %v", back, err)
	}
	if !s.Volatile() || s[:1].Volatile() {
		t.Errorf("disks are to forget: %t, %t", s.Volatile(), s[:1].Volatile())
	}
}

func TestEventsInALine(t *testing.T) {
	partition := 3
	for want, e := range map[string]Event{
		"at 1s for 5s: cut-halves n1 n2 | n3 n4 n5":                {Kind: "cut-halves", Links: between(nodes(5)[:2], nodes(5)[2:])},
		"at 1s for 5s: one-way n1->n2,n3":                          {Kind: "one-way", Links: oneWay([]string{"n1"}, []string{"n3", "n2"})},
		"at 1s for 5s: stutter of partition 3, 2s on, 100ms off":   {Kind: "stutter", Leader: &partition, On: 2 * time.Second, Off: 100 * time.Millisecond},
		"at 1s for 5s: one-way-leader of partition 3, inward only": {Kind: "one-way-leader", Leader: &partition, Way: Inward},
		"at 1s for 5s: kill-all n1 n2":                             {Kind: "kill-all", Nodes: nodes(2)},
		"at 1s for 5s: clock-jump n1, clock -100 ms, clock +7 ppm": bent("clock-jump", -100, 7),
	} {
		e.At, e.For = time.Second, 5*time.Second
		if got := fmt.Sprint(e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func bent(kind string, offset, drift int64) Event {
	e := Event{Kind: kind, Nodes: nodes(1)}
	e.Bend.ClockOffsetMillis, e.Bend.ClockDriftPPM = offset, drift
	return e
}

func TestMissed(t *testing.T) {
	s := Schedule{{Kind: "cut-one"}, {Kind: "kill-one"}, {Kind: "cut-one"}}
	for asked, want := range map[string]string{
		"cut-one,kill-one":        "",
		"cut-one,cut-halves,wipe": "[cut-halves wipe]",
		"cut,kill":                "",
		"pause":                   "[pause-leader or pause-majority or pause-one]",
		"kills":                   "[kill-all kill-leader kill-minority rolling-restart]",
		"kills,kill-all":          "[kill-all kill-leader kill-minority rolling-restart]",
		"cut-one,links":           "[duplicate lossy narrow slow]",
		"clocks,cut-one":          "", // they cannot be done at all, and nothing is planned
	} {
		if got := s.Missed(strings.Split(asked, ","), lab.Namespaces, false); want == "" && len(got) > 0 || want != "" && fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", asked, got, want)
		}
	}
}
