package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

var _ Network = lab.Lab(nil)

var errBroken = errors.New("broken")

// world is a target that notes what is done to it, and when.
type world struct {
	t     *testing.T
	began time.Time

	mu       sync.Mutex
	log      []string
	rules    map[lab.Link]lab.Rule
	frames   map[lab.Link]*lab.Traffic
	severed  map[string][]string
	machines map[string]*fake
	leader   string
	asked    *int   // counts questions who leads
	broken   string // what is done that fails, as it is noted; once
}

func newWorld(t *testing.T, count int) *world {
	w := &world{
		t: t, began: time.Now(), rules: map[lab.Link]lab.Rule{}, frames: map[lab.Link]*lab.Traffic{},
		severed: map[string][]string{}, machines: map[string]*fake{}, leader: "n1",
	}
	for _, n := range nodes(count) {
		w.machines[n] = &fake{world: w, name: n, state: cluster.Running}
	}
	return w
}

func (w *world) target() Target {
	t := Target{Network: w, Machines: map[string]Machine{}, Leader: func(context.Context, int) (string, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asked != nil {
			*w.asked++
		}
		return w.leader, nil
	}}
	for n, m := range w.machines {
		t.Machines[n] = m
	}
	return t
}

// note notes; the caller holds the lock.
func (w *world) note(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	w.log = append(w.log, fmt.Sprintf("%s %s", time.Since(w.began), what))
	if what == w.broken {
		w.broken = ""
		return errBroken
	}
	return nil
}

// notes are in order of time; what is of one moment, by name.
func (w *world) notes() []string {
	at := func(note string) time.Duration {
		moment, _, _ := strings.Cut(note, " ")
		d, err := time.ParseDuration(moment)
		if err != nil {
			w.t.Fatal(err)
		}
		return d
	}
	all := slices.Clone(w.log)
	slices.SortStableFunc(all, func(a, b string) int {
		if d := at(a) - at(b); d != 0 {
			return int(d)
		}
		return strings.Compare(a, b)
	})
	return all
}

func (w *world) expect(want ...string) {
	w.t.Helper()
	if got := w.notes(); !slices.Equal(got, want) {
		w.t.Errorf("done:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// good checks that all is as it was in the beginning.
func (w *world) good() {
	w.t.Helper()
	for l, r := range w.rules {
		if r != (lab.Rule{}) {
			w.t.Errorf("%s is left with %+v", l, r)
		}
	}
	for n, from := range w.severed {
		if len(from) > 0 {
			w.t.Errorf("%s is left without %q", n, from)
		}
	}
	for n, m := range w.machines {
		if m.state != cluster.Running || m.control != (cluster.Control{}) || m.mayEnd {
			w.t.Errorf("%s is left %s, with %+v, and may end: %t", n, m.state, m.control, m.mayEnd)
		}
	}
}

func (w *world) Shape(l lab.Link, r lab.Rule) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := "good"
	if r.Cut {
		what = "cut"
	} else if r != (lab.Rule{}) {
		what = fmt.Sprintf("%s %v %v %d", r.Delay, r.Loss, r.Duplicate, r.Rate)
	}
	if err := w.note("%s %s", l, what); err != nil {
		return err
	}
	w.rules[l] = r
	return nil
}

// Traffic has ten frames pass whenever it is asked.
func (w *world) Traffic(l lab.Link) (lab.Traffic, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.frames[l] == nil {
		w.frames[l] = &lab.Traffic{}
	}
	t := w.frames[l]
	t.Sent += 10
	if w.rules[l].Cut {
		t.Cut += 10
	} else if w.rules[l].Loss > 0 {
		t.Lost += 2
	}
	return *t, nil
}

func (w *world) sever(ctx context.Context, node string, from []string) error {
	if w.machines[node].State() != cluster.Running {
		<-ctx.Done() // nobody answers
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.severed[node] = from
	return w.note("%s without %q", node, from)
}

// fake is a node of a world.
type fake struct {
	*world
	name    string
	state   cluster.State
	control cluster.Control
	mayEnd  bool
	forgets bool
	bent    cluster.Counters
}

func (f *fake) do(what string, from []cluster.State, to cluster.State, otherwise error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(from, f.state) {
		return otherwise
	}
	if err := f.note("%s %s", what, f.name); err != nil {
		return err
	}
	f.state = to
	if what == "start" {
		delete(f.severed, f.name)
	}
	return nil
}

func (f *fake) State() cluster.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fake) Start() error {
	return f.do("start", []cluster.State{cluster.Down}, cluster.Running, cluster.ErrRunning)
}

func (f *fake) AwaitReady(ctx context.Context) error {
	if !until(ctx, time.Now().Add(time.Second)) {
		return ctx.Err()
	}
	if f.State() == cluster.Down {
		return cluster.ErrNotRunning
	}
	return nil
}

func (f *fake) Stop(context.Context) error {
	return f.do("stop", []cluster.State{cluster.Running}, cluster.Down, cluster.ErrNotRunning)
}

func (f *fake) Kill() error {
	return f.do("kill", []cluster.State{cluster.Running, cluster.Paused}, cluster.Down, nil)
}

func (f *fake) Pause() error {
	return f.do("pause", []cluster.State{cluster.Running}, cluster.Paused, cluster.ErrNotRunning)
}

func (f *fake) Resume() error {
	return f.do("resume", []cluster.State{cluster.Paused}, cluster.Running, cluster.ErrNotRunning)
}

func (f *fake) Stands() (bool, error) { return f.State() == cluster.Paused, nil }

func (f *fake) Wipe() error {
	return f.do("wipe", []cluster.State{cluster.Down}, cluster.Down, cluster.ErrRunning)
}

func (f *fake) Bend(c cluster.Control) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.note("bend %s: %s", f.name, bending(c)); err != nil {
		return err
	}
	f.control = c
	return nil
}

func (f *fake) Obeys() (bool, error) { return f.State() == cluster.Running, nil }

func (f *fake) Forgets() (bool, error) { return f.forgets, nil }

// Bent counts one of each thing that is bent whenever it is asked.
func (f *fake) Bent() (cluster.Counters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.control.ClockOffsetMillis != 0 {
		f.bent.ClockReads++
	}
	if f.control.SyncError {
		f.bent.SyncFailed++
	}
	return f.bent, nil
}

func (f *fake) MayEnd(may bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mayEnd = may
}

// ends has the process end by itself at some time.
func (f *fake) ends(after time.Duration) {
	time.AfterFunc(after, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.mayEnd {
			f.t.Errorf("%s may not end", f.name)
		}
		_ = f.note("end %s", f.name)
		f.state = cluster.Down
	})
}

func second(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func pair(a, b string) []lab.Link { return between([]string{a}, []string{b}) }

// carried runs a schedule in a world, in virtual time.
func carried(t *testing.T, count int, s Schedule, prepare func(*world), check func(*world, []Effect)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, count)
		target := w.target()
		if prepare != nil {
			prepare(w)
		}
		effects, err := Run(t.Context(), target, s)
		if err != nil || len(effects) != len(s) {
			t.Fatalf("%v, %v", effects, err)
		}
		w.good()
		for i, e := range effects {
			if e.Number != i || strings.Contains(e.String(), "\n") {
				t.Errorf("effect %d: %s", i, e)
			}
		}
		check(w, effects)
	})
}

func TestRunOneAfterTheOther(t *testing.T) {
	carried(t, 2, Schedule{
		{At: second(1), For: second(2), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
		{At: second(5), For: second(1), Kind: "slow", Rule: lab.Rule{Delay: second(1)}, Links: pair("n1", "n2")[:1]},
	}, nil, func(w *world, effects []Effect) {
		w.expect("1s n1->n2 cut", "1s n2->n1 cut", "3s n1->n2 good", "3s n2->n1 good", "5s n1->n2 1s 0 0 0", "6s n1->n2 good")
		if e := effects[0]; e.Cut != 20 || e.Held != 0 || !e.Felt() || e.Ended.Sub(e.Began) != second(2) || e.String() != "cut-one n1 | n2 for 2s: 20 frames cut" || !slices.Equal(e.Nodes, nodes(1)) {
			t.Errorf("%+v: %s", e, e)
		}
		if e := effects[1]; e.Cut != 0 || e.Held != 10 || !e.Felt() {
			t.Errorf("%+v", e)
		}
	})
}

// A link that two events touch follows both, and is good when both are over.
func TestRulesOverlap(t *testing.T) {
	carried(t, 2, Schedule{
		{At: second(1), For: second(3), Kind: "lossy", Rule: lab.Rule{Loss: 0.5, Rate: 7}, Links: pair("n1", "n2")[:1]},
		{At: second(2), For: second(4), Kind: "slow", Rule: lab.Rule{Loss: 0.5, Delay: second(1)}, Links: pair("n1", "n2")[:1]},
		{At: second(3), For: second(0.5), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
		{At: second(7), For: second(1), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
		{At: second(7), For: second(2), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
	}, nil, func(w *world, effects []Effect) {
		w.expect("1s n1->n2 0s 0.5 0 7", "2s n1->n2 1s 0.75 0 7", "3s n1->n2 cut", "3s n2->n1 cut", "3.5s n1->n2 1s 0.75 0 7", "3.5s n2->n1 good",
			"4s n1->n2 1s 0.5 0 0", "6s n1->n2 good", "7s n1->n2 cut", "7s n2->n1 cut", "9s n1->n2 good", "9s n2->n1 good")
		for _, e := range effects {
			if !e.Felt() {
				t.Errorf("not felt: %s", e)
			}
		}
	})
}

func TestFlapping(t *testing.T) {
	carried(t, 2, Schedule{{At: second(1), For: second(1), Kind: "flapping", Rule: cut, Links: pair("n1", "n2"), On: second(0.3), Off: second(0.1)}}, nil,
		func(w *world, effects []Effect) {
			var want []string
			for _, turn := range []struct{ at, what string }{{"1s", "cut"}, {"1.3s", "good"}, {"1.4s", "cut"}, {"1.7s", "good"}, {"1.8s", "cut"}, {"2s", "good"}} {
				want = append(want, turn.at+" n1->n2 "+turn.what, turn.at+" n2->n1 "+turn.what)
			}
			w.expect(want...)
			if effects[0].Cut != 60 {
				t.Errorf("%s", effects[0])
			}
		})
}

// Whoever leads when the event begins is hit.
func TestLeaders(t *testing.T) {
	partition := 3
	carried(t, 3, Schedule{
		{At: second(1), For: second(1), Kind: "cut-leader", Rule: cut, Leader: &partition},
		{At: second(3), For: second(1), Kind: "one-way-leader", Rule: cut, Leader: &partition, Way: Inward},
		{At: second(5), For: second(1), Kind: "one-way-leader", Rule: cut, Leader: &partition, Way: Outward},
		{At: second(7), For: second(1), Kind: "kill-leader", Leader: &partition},
		{At: second(9), For: second(5), Kind: "stutter", Leader: &partition, On: second(2), Off: second(1)},
		{At: second(15), For: second(2), Kind: "pause-leader", Leader: &partition},
	}, func(w *world) {
		lead := func(at float64, name string) {
			time.AfterFunc(second(at), func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.leader = name
			})
		}
		lead(2, "n2")
		lead(10, "n3")
		lead(14.5, "")    // nobody leads
		lead(15.5, "n99") // nobody knows it
		lead(15.88, "n1")
	}, func(w *world, effects []Effect) {
		w.expect("1s n1->n2 cut", "1s n1->n3 cut", "1s n2->n1 cut", "1s n3->n1 cut", "2s n1->n2 good", "2s n1->n3 good", "2s n2->n1 good", "2s n3->n1 good",
			"3s n1->n2 cut", "3s n3->n2 cut", "4s n1->n2 good", "4s n3->n2 good",
			"5s n2->n1 cut", "5s n2->n3 cut", "6s n2->n1 good", "6s n2->n3 good",
			"7s kill n2", "8s start n2",
			"9s pause n2", "11s resume n2", "12s pause n3", "14s resume n3",
			"15.9s pause n1", "17s resume n1")
		if e := effects[0]; fmt.Sprint(e.Nodes, e.Apart) != "[n1] [[n1] [n2 n3]]" || e.Cut != 40 {
			t.Errorf("%+v", e)
		}
		if e := effects[1]; fmt.Sprint(e.Nodes, e.Links) != "[n2] [n1->n2 n3->n2]" || e.Cut != 20 {
			t.Errorf("%+v", e)
		}
		if e := effects[3]; e.String() != "kill-leader n2 for 1s: 1 process killed, 1 started again" {
			t.Errorf("%+v: %s", e, e)
		}
		if e := effects[4]; e.Paused != 2 || fmt.Sprint(e.Nodes) != "[n2 n3]" {
			t.Errorf("%+v", e)
		}
	})
}

// That nobody leads is no failure of the run; the fault was not felt.
func TestNobodyLeads(t *testing.T) {
	partition, asked := 0, 0
	carried(t, 2, Schedule{
		{At: second(1), For: second(2), Kind: "cut-leader", Rule: cut, Leader: &partition},
		{At: second(1), For: second(2), Kind: "pause-leader", Leader: &partition},
	}, func(w *world) { w.leader, w.asked = "", &asked }, func(w *world, effects []Effect) {
		w.expect()
		for _, e := range effects {
			if e.Felt() || !strings.Contains(e.String(), "no effect, nobody was found to lead partition 0") {
				t.Errorf("%+v: %s", e, e)
			}
		}
		if asked < 20 || asked > 42 { // for a second, every 50 ms, by both
			t.Errorf("%d times it was asked who leads", asked)
		}
	})
}

// A node is down while any event wants it down, and stands while it runs and any
// wants that.
func TestNodeFaultsOverlap(t *testing.T) {
	carried(t, 2, Schedule{
		{At: second(1), For: second(4), Kind: "pause-one", Nodes: []string{"n1"}},
		{At: second(2), For: second(2), Kind: "kill-all", Nodes: nodes(2)},
		{At: second(3), For: second(2), Kind: "kill-one", Nodes: []string{"n2"}},
		{At: second(4.5), For: second(2), Kind: "pause-one", Nodes: []string{"n1"}},
	}, nil, func(w *world, effects []Effect) {
		w.expect("1s pause n1", "2s kill n1", "2s kill n2", "4s pause n1", "4s start n1", "5s start n2", "6.5s resume n1")
		for i, want := range []string{
			"pause-one n1 for 4s: 1 pause", "kill-all n1 n2 for 2s: 2 processes killed, 1 started again",
			"kill-one n2 for 2s: 1 started again, no effect", // it was down
			"pause-one n1 for 2s: 1 pause",
		} {
			if got := effects[i].String(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}

// Nodes end in order and start one after the other, as long as there is time; one that
// others hit is left alone.
func TestRollingRestart(t *testing.T) {
	carried(t, 4, Schedule{
		{At: second(1), For: second(3), Kind: "pause-one", Nodes: []string{"n2"}},
		{At: second(1.5), For: second(1.5), Kind: "rolling-restart", Nodes: []string{"n3", "n2", "n1", "n4"}},
	}, nil, func(w *world, effects []Effect) {
		w.expect("1s pause n2", "1.5s start n3", "1.5s stop n3", "2.5s start n1", "2.5s stop n1", "4s resume n2")
		e := effects[1]
		if e.Restarted != 2 || !e.Felt() || fmt.Sprint(e.Nodes) != "[n1 n2 n3]" {
			t.Errorf("%+v", e)
		}
	})
}

func TestWipe(t *testing.T) {
	carried(t, 3, Schedule{{At: second(1), For: second(1), Kind: "wipe", Nodes: []string{"n2"}}}, nil, func(w *world, effects []Effect) {
		w.expect("1s kill n2", "2s start n2", "2s wipe n2")
		if e := effects[0]; !e.Felt() || e.Did() != "1 process killed, 1 disk wiped, 1 started again" {
			t.Errorf("%+v: %s", e, e)
		}
	})
}

// A power cut that no disk forgot anything in is no power cut.
func TestPowerCut(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		carried(t, 2, Schedule{{At: second(1), For: second(1), Kind: "power-cut", Nodes: nodes(2)}}, func(w *world) {
			w.machines["n2"].forgets = forgets
		}, func(w *world, effects []Effect) {
			w.expect("1s kill n1", "1s kill n2", "2s start n1", "2s start n2")
			if e := effects[0]; e.Felt() != forgets || e.Killed != 2 {
				t.Errorf("%+v: %s", e, e)
			}
		})
	}
}

// A node that several bend follows all of them.
func TestBendsOverlap(t *testing.T) {
	carried(t, 1, Schedule{
		{At: second(1), For: second(3), Kind: "clock-jump", Nodes: nodes(1), Bend: cluster.Control{ClockOffsetMillis: 5}},
		{At: second(2), For: second(4), Kind: "slow-fsync", Nodes: nodes(1), Bend: cluster.Control{SyncDelayMillis: 100}},
		{At: second(3), For: second(2), Kind: "kill-one", Nodes: nodes(1)},
	}, nil, func(w *world, effects []Effect) {
		w.expect("1s bend n1: clock +5 ms", "2s bend n1: clock +5 ms, syncs take 100 ms more", "3s kill n1",
			"5s bend n1: syncs take 100 ms more", "5s start n1", "6s bend n1: ")
		if e := effects[0]; !e.Felt() || e.Obeyed != 1 || e.Bent.ClockReads == 0 {
			t.Errorf("%+v", e)
		}
		if e := effects[1]; e.Felt() || e.Obeyed != 1 { // this disk has nothing to do
			t.Errorf("%+v", e)
		}
	})
}

// A node whose disk fails may end itself, also a moment after the disk is good
// again; it is started at the end, not before, and then it may end no more.
func TestNodesThatEndThemselves(t *testing.T) {
	s := Schedule{{At: second(1), For: second(2), Kind: "fsync-error", Nodes: nodes(2), Bend: cluster.Control{SyncError: true}}}
	carried(t, 2, s, func(w *world) {
		w.machines["n1"].ends(second(2))
		w.machines["n2"].ends(second(3.5))
	}, func(w *world, effects []Effect) {
		w.expect("1s bend n1: syncs fail", "1s bend n2: syncs fail", "2s end n1", "3s bend n1: ", "3s bend n2: ", "3s start n1", "3.5s end n2", "4s start n2")
		if e := effects[0]; e.Started != 2 || e.Obeyed != 2 || e.Bent.SyncFailed != 2 || !e.Felt() {
			t.Errorf("%+v", e)
		}
	})
}

// Where links cannot be touched nodes cut themselves off. One that was killed
// meanwhile is told again when it is back.
func TestNodesCutThemselvesOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		target := w.target()
		target.Network, target.Cut = nil, w.sever
		effects, err := Run(t.Context(), target, Schedule{
			{At: second(1), For: second(5), Kind: "cut-one", Rule: cut, Links: between(nodes(3)[:1], nodes(3)[1:])},
			{At: second(2), For: second(1), Kind: "kill-one", Nodes: []string{"n1"}},
			{At: second(4), For: second(4), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
			{At: second(5), For: second(4), Kind: "pause-one", Nodes: []string{"n3"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.good()
		w.expect(`1s n1 without ["n2" "n3"]`, `1s n2 without ["n1"]`, `1s n3 without ["n1"]`, "2s kill n1", "3s start n1", `3.25s n1 without ["n2" "n3"]`,
			"5s pause n3", `6s n1 without ["n2"]`, `8s n1 without []`, `8s n2 without []`, `9s n3 without []`, "9s resume n3")
		if e := effects[0]; e.Severed != 3 || !e.Felt() || e.Did() != "3 nodes severed" {
			t.Errorf("%+v: %s", e, e)
		}
		target.Cut = nil
		for _, s := range []Schedule{
			{{For: 1, Kind: "slow", Rule: lab.Rule{Delay: 1}, Links: pair("n1", "n2")}},
			{{For: 1, Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")}},
		} {
			if _, err := Run(t.Context(), target, s); !errors.Is(err, lab.ErrNoLinks) {
				t.Errorf("%v: %v", s, err)
			}
		}
	})
}

// everyKind is a schedule of each kind, all at once or nearly.
func everyKind(t *testing.T, seed uint64) Schedule {
	c := everything("all", "wipe")
	c.Seed, c.Length = seed, second(7*float64(len(kinds)+1)+2)
	s, err := Plan(c)
	if err != nil || len(s) != len(kinds) {
		t.Fatalf("%d events: %v", len(s), err)
	}
	for i := range s {
		s[i].At, s[i].For = second(float64(i)/10), second(6)-second(float64(i)/20)
	}
	return s
}

// However a run ends, all is good again: with its time, when it is told to end, or
// when something cannot be done.
func TestRunHeals(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 5)
			if effects, err := Run(t.Context(), w.target(), everyKind(t, seed)); err != nil || len(effects) != len(kinds) {
				t.Errorf("%v, %v", effects, err)
			}
			w.good()
		})
		for end := second(0.05); end < everyKind(t, seed).End(); end += second(0.4) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5)
				ctx, cancel := context.WithTimeout(t.Context(), end)
				defer cancel()
				if _, err := Run(ctx, w.target(), everyKind(t, seed)); err != nil {
					t.Errorf("after %s: %v", end, err)
				}
				w.good()
				if late := time.Since(w.began) - end; late > endPatience {
					t.Errorf("ended after %s, healed %s later", end, late)
				}
			})
		}
	}
}

func TestFailuresAreHealed(t *testing.T) {
	overlapping := Schedule{
		{At: 0, For: second(9), Kind: "pause-one", Nodes: []string{"n2"}},
		{At: second(1), For: second(3), Kind: "cut-one", Rule: cut, Links: pair("n1", "n2")},
		{At: second(1), For: second(3), Kind: "kill-one", Nodes: []string{"n1"}},
		{At: second(2), For: second(3), Kind: "slow-fsync", Nodes: []string{"n3"}, Bend: cluster.Control{SyncDelayMillis: 100}},
	}
	for _, broken := range []string{
		"n1->n2 cut", "n2->n1 cut", "n2->n1 good", "n1->n2 good", "kill n1", "start n1", "pause n2", "resume n2", "bend n3: syncs take 100 ms more", "bend n3: ",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3)
			w.broken = broken
			effects, err := Run(t.Context(), w.target(), overlapping)
			if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "event ") || len(effects) == 0 {
				t.Errorf("%s: %v, %v", broken, effects, err)
			}
			w.good()
		})
	}
}

// Who listens hears each event begin when it is in force, with those it hits, and end
// with what it did.
func TestEventsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		target := w.target()
		partition := 0
		var told []string
		target.Events = func(p Phase, e Effect) {
			w.mu.Lock()
			defer w.mu.Unlock()
			told = append(told, fmt.Sprintf("%s %s %d %s, n1->n2 cut: %t, n1 %s", time.Since(w.began), p, e.Number, e.Hit(), w.rules[lab.Link{From: "n1", To: "n2"}].Cut, w.machines["n1"].state))
		}
		_, err := Run(t.Context(), target, Schedule{
			{At: second(1), For: second(3), Kind: "cut-leader", Rule: cut, Leader: &partition},
			{At: second(2), For: second(1), Kind: "kill-one", Nodes: []string{"n1"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{
			"1s begin 0 cut-leader n1 | n2 n3, n1->n2 cut: true, n1 running", "2s begin 1 kill-one n1, n1->n2 cut: true, n1 down",
			"3s end 1 kill-one n1, n1->n2 cut: true, n1 running", "4s end 0 cut-leader n1 | n2 n3, n1->n2 cut: false, n1 running",
		}; !slices.Equal(told, want) {
			t.Errorf("told:\n%s", strings.Join(told, "\n"))
		}
	})
}
