package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/history"
)

const ms = time.Millisecond

// weather is a cluster of five nodes and two partitions, p0 on n1 n2 n3, p1 on n3 n4
// n5, with an election timeout of 1.5 s. Clients ask every node for each partition at
// both levels, ten times a second.
type weather struct {
	faults []history.Band
	stalls []history.Span
	length time.Duration
	// answer says how an operation ends.
	answer func(o *history.Op)
}

func band(number int, kind string, from, until time.Duration, nodes ...string) history.Band {
	return history.Band{Fault: history.Fault{Number: number, Kind: kind, Nodes: nodes, Felt: true}, From: from, Until: until, Healed: true}
}

func (w weather) history() *history.History {
	h := &history.History{
		Run: history.Run{
			Format: history.Format, Workloads: []string{"availability"}, Nodes: []string{"n1", "n2", "n3", "n4", "n5"}, Partitions: 2, ReplicationFactor: 3,
			ElectionTimeout: 1500 * ms, Placement: [][]string{{"n1", "n2", "n3"}, {"n3", "n4", "n5"}},
		},
		Faults: w.faults, Stalls: w.stalls, Length: w.length, End: &history.End{Settled: true, Asked: true},
	}
	for partition := range 2 {
		for _, n := range []string{"n1", "n2"} {
			h.Replicas = append(h.Replicas, history.Replica{Node: n, Partition: partition, Hash: "aa"})
		}
	}
	for at := time.Duration(0); at+100*ms < w.length; at += 100 * ms {
		for i, node := range h.Run.Nodes {
			for partition := range 2 {
				for _, level := range []history.Level{history.Linearizable, history.Eventual} {
					o := history.Op{
						Workload: "availability", Func: history.Get, Level: level, Key: fmt.Sprintf("availability/{%d}/%s", partition, level), Partition: partition,
						Node: node, Outcome: history.OK, Invoke: at + time.Duration(i)*ms, Deadline: 500 * ms,
					}
					if level == history.Eventual {
						o.Deadline = 2 * time.Second
					}
					if (at/(100*ms))%2 == 0 {
						o.Func, o.Value = history.Put, fmt.Sprintf("%s-%d-%v", node, partition, at)
					}
					o.Return = o.Invoke + 5*ms
					w.answer(&o)
					h.Ops = append(h.Ops, o)
				}
			}
		}
	}
	for i := range h.Ops {
		h.Ops[i].ID = i
	}
	return h
}

func refused(o *history.Op) {
	o.Outcome, o.Reason = history.Fail, "NO_QUORUM"
}

// gaveUp: the client waited no longer.
func gaveUp(o *history.Op) {
	o.Deadline = 500 * ms
	hung(o)
	o.Return = o.Invoke + o.Deadline + 250*ms
}

func hung(o *history.Op) {
	o.Outcome, o.Reason, o.Code, o.Return = history.Info, "", "deadline_exceeded", o.Invoke+o.Deadline+time.Second
}

// halves is a cut of n1 n2 from the others for 10 s: p0 has its quorum on the
// smaller side, p1 on the other.
func halves() history.Band {
	b := band(0, "cut-halves", 5050*ms, 15050*ms, "n1", "n2")
	b.Apart = [][]string{{"n1", "n2"}, {"n3", "n4", "n5"}}
	return b
}

func has(o *history.Op, b history.Band) bool { return o.Invoke >= b.From && o.Invoke < b.Until }

// away: linearizable service of a partition returns so long after the fault.
func away(o *history.Op, b history.Band, after time.Duration) bool {
	return o.Level == history.Linearizable && has(o, b) && o.Invoke < b.From+after
}

// cutAsItShould answers as a cluster does that keeps to the contract.
func cutAsItShould(o *history.Op, b history.Band) {
	if !has(o, b) {
		return
	}
	small := o.Node == "n1" || o.Node == "n2"
	switch quorum := small == (o.Partition == 0); {
	case o.Level == history.Linearizable && !quorum:
		refused(o)
	case o.Level == history.Linearizable && o.Invoke < b.From+2800*ms:
		refused(o)
	case o.Level == history.Eventual && !o.Write() && small && o.Partition == 1 && o.Invoke < b.From+200*ms:
		refused(o) // it reaches no replica, and has taken nothing since the cut
	}
}

func TestAvailabilityStories(t *testing.T) {
	cut := halves()
	killed := band(0, "kill-one", 5*time.Second, 15*time.Second, "n3")
	minorityPaused := band(0, "pause-majority", 5*time.Second, 15*time.Second, "n1", "n2", "n3")
	ledgerOf := func(answer func(*history.Op), faults ...history.Band) *history.History {
		return weather{faults: faults, length: 20 * time.Second, answer: answer}.history()
	}
	onCut := func(more func(*history.Op)) *history.History {
		return ledgerOf(func(o *history.Op) { cutAsItShould(o, cut); more(o) }, cut)
	}
	tell(t, "availability", []story{
		{name: "no fault", h: ledgerOf(func(*history.Op) {})},
		{name: "a cut", h: onCut(func(*history.Op) {})},
		{name: "a request was under way as the cut began, and as it ended", h: onCut(func(o *history.Op) {
			if at := o.Invoke / (100 * ms) * 100 * ms; at == 5000*ms || at == 15000*ms {
				o.Outcome, o.Return = history.Info, o.Invoke+time.Second
			}
		})},
		{name: "a node is killed, and starts slowly", h: ledgerOf(func(o *history.Op) {
			if o.Node == "n3" && o.Invoke >= 5*time.Second && o.Invoke < 18*time.Second {
				o.Outcome, o.Code = history.Fail, "unavailable"
			} else if away(o, killed, 2900*ms) {
				refused(o)
			}
		}, killed)},
		{name: "one request is late", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Partition == 0 && o.Node == "n1" && o.Invoke == 10*time.Second {
				refused(o)
			}
		})},
		{name: "clients gave up early, on a busy machine", h: onCut(func(o *history.Op) {
			if o.Invoke > 8*time.Second && o.Invoke < 9*time.Second {
				gaveUp(o)
			}
		})},
		{name: "a majority is paused", h: ledgerOf(func(o *history.Op) {
			if !has(o, minorityPaused) {
				return
			}
			switch slices.Contains(minorityPaused.Nodes, o.Node) {
			case true:
				hung(o)
			default:
				if o.Level == history.Linearizable && o.Partition == 0 {
					refused(o)
				}
			}
		}, minorityPaused)},
		{name: "links are bad", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Linearizable {
				hung(o)
			}
		}, band(0, "lossy", 0, 20*time.Second))},
		{name: "a disk is full", h: ledgerOf(func(o *history.Op) {
			if (o.Node == "n4" || o.Partition == 1 && o.Level == history.Linearizable) && o.Invoke > 5*time.Second {
				refused(o)
			}
		}, band(0, "disk-full", 5*time.Second, 20*time.Second, "n4"))},
		{name: "a wiped node has no replica any more", h: ledgerOf(func(o *history.Op) {
			switch gone := o.Invoke > 12*time.Second; {
			case gone && o.Node == "n2":
				hung(o)
			case gone && o.Level == history.Linearizable && o.Partition == 0:
				refused(o)
			}
		}, band(0, "wipe", 5*time.Second, 7*time.Second, "n1"), band(1, "pause-one", 12*time.Second, 20*time.Second, "n2"))},
		{name: "an eventual write is refused in the minority", h: onCut(func(o *history.Op) {
			if o.Level == history.Eventual && o.Write() && o.Node == "n2" && o.Invoke > 8*time.Second && has(o, cut) {
				refused(o)
			}
		}), checker: "ledger", why: "an eventual put was not answered by n2, which was up and in reach, since fault 0 (cut-halves): NO_QUORUM"},
		{name: "an eventual read of a replica hangs", h: onCut(func(o *history.Op) {
			if o.Level == history.Eventual && !o.Write() && o.Node == "n2" && o.Partition == 0 && has(o, cut) {
				hung(o)
			}
		}), checker: "ledger", why: "an eventual get was not answered by n2"},
		{name: "a node does not show what it has taken itself", h: onCut(func(o *history.Op) {
			if o.Level == history.Eventual && !o.Write() && o.Node == "n2" && o.Partition == 1 && o.Invoke > 8*time.Second && has(o, cut) {
				refused(o)
			}
		}), checker: "ledger", why: "an eventual get was not answered by n2"},
		{name: "a node is still taking what it does not show", h: onCut(func(o *history.Op) {
			if o.Level != history.Eventual || o.Node != "n2" || o.Partition != 1 || !has(o, cut) {
				return
			}
			if o.Outcome, o.Reason = history.OK, ""; o.Invoke < cut.From+2*time.Second { // the first write, and reads meanwhile
				if o.Write() {
					o.Return = cut.From + 2100*ms
				} else {
					refused(o)
				}
			}
		})},
		{name: "an eventual one is refused for no reason", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Eventual && o.Invoke == 3*time.Second {
				refused(o)
			}
		}), checker: "ledger", why: "since the beginning"},
		{name: "no answer in the minority", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Node == "n4" && o.Partition == 0 && has(o, cut) {
				hung(o)
			}
		}), checker: "ledger", why: "neither answered nor refused by n4, which was up and in reach, within 1.5s, in the minority"},
		{name: "served without a quorum", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Node == "n4" && o.Partition == 0 && o.Invoke > 9*time.Second {
				o.Outcome, o.Reason = history.OK, ""
			}
		}), checker: "ledger", why: "though no quorum of partition 0 was within its reach"},
		{name: "a condition judged without a quorum", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Node == "n4" && o.Partition == 0 && o.Write() && has(o, cut) && o.Invoke > 9*time.Second {
				o.Mismatch = true
			}
		}), checker: "ledger", why: "was answered by n4"},
		{name: "served again too late", h: onCut(func(o *history.Op) {
			if o.Partition == 1 && away(o, cut, 6*time.Second) {
				refused(o)
			}
		}), checker: "ledger", why: "partition 1 was not served at n3 for at least 5.952s, with a quorum of it within reach, since fault 0 (cut-halves): 3s are allowed; last NO_QUORUM"},
		{name: "served again too late where the quorum is on the smaller side", h: onCut(func(o *history.Op) {
			if o.Partition == 0 && o.Node == "n2" && away(o, cut, 6*time.Second) {
				refused(o)
			}
		}), checker: "ledger", why: "partition 0 was not served at n2"},
		{name: "never served again", h: onCut(func(o *history.Op) {
			if o.Partition == 1 && away(o, cut, 60*time.Second) {
				refused(o)
			}
		}), checker: "ledger", why: "partition 1 was not served at n3 for at least 9.452s"},
		{name: "not served after a kill", h: ledgerOf(func(o *history.Op) {
			if o.Node == "n3" && has(o, killed) {
				o.Outcome, o.Code = history.Fail, "unavailable"
			} else if o.Partition == 0 && away(o, killed, 5*time.Second) {
				refused(o)
			}
		}, killed), checker: "ledger", why: "since fault 0 (kill-one)"},
		{name: "lost again in the middle", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Partition == 1 && o.Invoke > 9*time.Second && o.Invoke < 14*time.Second {
				refused(o)
			}
		}), checker: "ledger", why: "partition 1 was not served at n3 for at least 4.9s"},
		{name: "now and then one is refused", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Partition == 1 && o.Invoke/(100*ms)%20 == 0 {
				refused(o)
			}
		})},
		{name: "service of a partition comes and goes", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Partition == 1 && o.Invoke/(100*ms)%4 == 0 {
				refused(o)
			}
		}), checker: "ledger", why: "linearizable requests of partition 1 were not served, with a quorum within reach, and more than 4s after"},
		{name: "service at a node comes and goes", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Node == "n5" && o.Invoke/(100*ms)%4 == 0 {
				refused(o)
			}
		}), checker: "ledger", why: "linearizable requests at n5 were not served"},
		{name: "a node that was killed never comes back", h: weather{faults: []history.Band{killed}, length: 45 * time.Second, answer: func(o *history.Op) {
			if o.Node == "n3" && o.Invoke >= killed.From {
				o.Outcome, o.Code = history.Info, "unavailable"
			} else if away(o, killed, 2900*ms) {
				refused(o)
			}
		}}.history(), checker: "ledger", why: "was not answered by n3, which was up and in reach"},
		{name: "no replica in reach has caught up with a node", h: onCut(func(o *history.Op) {
			if o.Level == history.Eventual && !o.Write() && o.Node == "n4" && o.Partition == 0 && has(o, cut) {
				o.Key, o.Outcome, o.Reason = "availability/{0}/of-another", history.Fail, "SESSION_BEHIND"
			}
		})},
		{name: "all is well, and no replica has caught up with a node", h: ledgerOf(func(o *history.Op) {
			if o.Level == history.Eventual && !o.Write() && o.Node == "n4" && o.Partition == 0 {
				o.Key, o.Outcome, o.Reason = "availability/{0}/of-another", history.Fail, "SESSION_BEHIND"
			}
		}), checker: "ledger", why: "an eventual get was not answered by n4"},
		{name: "not served after the heal", h: onCut(func(o *history.Op) {
			if o.Level == history.Linearizable && o.Partition == 1 && o.Invoke > cut.Until {
				refused(o)
			}
		}), checker: "ledger", why: "since a fault's end"},
	})
}

func TestTheLedgerCounts(t *testing.T) {
	cut := halves()
	h := weather{faults: []history.Band{cut}, length: 20 * time.Second, answer: func(o *history.Op) { cutAsItShould(o, cut) }}.history()
	r := Check(h, Options{Least: 1})
	if r.Verdict != Holds || r.Stats.Availability == nil {
		t.Fatalf("%s %v", r.Sentence, r.Findings)
	}
	a := r.Stats.Availability
	row := func(node string, level history.Level, s situation) AvailabilityRow {
		for _, r := range a.Rows {
			if r.Node == node && r.Level == level && r.Situation == string(s) {
				return r
			}
		}
		return AvailabilityRow{}
	}
	// 10 s of ten operations a second and partition, but for the last half a second.
	if r := row("n4", history.Linearizable, minority); r.Asked != 95 || r.Refused != 95 || r.Answered != 0 || r.RefusedMax != 5*ms {
		t.Errorf("%+v", r)
	}
	if r := row("n4", history.Linearizable, majority); r.Asked != 95 || r.Refused != 28 || r.Answered != 67 || r.P50 != 5*ms {
		t.Errorf("%+v", r)
	}
	if r := row("n4", history.Eventual, minority); r.Asked != 95 || r.Answered != 95 {
		t.Errorf("%+v", r)
	}
	if r := row("n1", history.Eventual, whole); r.Asked != 188 || r.Answered != 188 {
		t.Errorf("%+v", r)
	}
	if r := row("n1", history.Eventual, alone); r.Asked != 1 || r.Refused != 1 {
		t.Errorf("%+v", r)
	}
	if len(a.Interruptions) != 1 {
		t.Fatalf("%+v", a.Interruptions)
	}
	if i := a.Interruptions[0]; i.Fault != 0 || i.What != "fault 0 (cut-halves)" || i.Partitions != 2 || i.Interrupted != 2 || i.Open != 0 ||
		i.P50 < 2800*ms || i.Max > 2860*ms || i.Refused < 2700*ms || i.Refused > i.Max {
		t.Errorf("%+v", i)
	}
	i := slices.IndexFunc(r.Workloads[0].Checkers, func(c CheckerResult) bool { return c.Name == "ledger" })
	if d := r.Workloads[0].Checkers[i].Detail; !strings.Contains(d, "2.754s after fault 0 (cut-halves), where 3s are allowed") {
		t.Error(d)
	}
}

// One interruption of 3.5 s is within what a busy machine may add. Many are not.
func TestManySlowInterruptionsAreTheClustersFault(t *testing.T) {
	for _, c := range []struct {
		slow int // of ten
		want Verdict
	}{{2, Holds}, {3, Violated}, {10, Violated}} {
		var faults []history.Band
		for i := range 10 {
			from := time.Duration(10*i+2) * time.Second
			faults = append(faults, band(i, "kill-leader", from+50*ms, from+6*time.Second, "n1"))
		}
		h := weather{faults: faults, length: 110 * time.Second, answer: func(o *history.Op) {
			for i, f := range faults {
				after := 2500 * ms
				if i < c.slow {
					after = 3500 * ms
				}
				switch {
				case o.Node == "n1" && has(o, f):
					hung(o)
				case o.Partition == 0 && away(o, f, after):
					refused(o)
				}
			}
		}}.history()
		if r := Check(h, Options{Least: 1}); r.Verdict != c.want || c.want == Violated && !strings.Contains(r.Sentence, fmt.Sprintf("%d of 10 times", c.slow)) {
			t.Errorf("%d slow ones: %s", c.slow, r.Sentence)
		}
	}
}

// Where nodes cut themselves off the history is less exact about when they did, but
// not about when they were killed.
func TestCutsOfALoopbackLabTakeAWhile(t *testing.T) {
	cut, killed := halves(), band(0, "kill-one", 5050*ms, 15050*ms, "n1")
	late := func(f history.Band) func(*history.Op) {
		return func(o *history.Op) {
			if f.Kind == cut.Kind {
				cutAsItShould(o, cut)
			}
			if o.Node == "n2" && o.Level == history.Eventual && o.Invoke > f.From-2*time.Second && o.Invoke < f.From {
				refused(o)
			} else if o.Node == "n1" && has(o, killed) && f.Kind == killed.Kind {
				hung(o)
			}
		}
	}
	for _, c := range []struct {
		fault history.Band
		lab   string
		want  Verdict
	}{{cut, "loopback", Holds}, {cut, "namespaces", Violated}, {killed, "loopback", Violated}} {
		h := weather{faults: []history.Band{c.fault}, length: 20 * time.Second, answer: late(c.fault)}.history()
		h.Run.Lab = c.lab
		if r := Check(h, Options{Least: 1}); r.Verdict != c.want {
			t.Errorf("%s, %s: %s", c.fault.Kind, c.lab, r.Sentence)
		}
	}
}

// The machine stands still for four seconds, clients, network and all: what was under
// way hangs, and then leaders are gone. Without the stall each of that is a finding.
func TestAMachineThatStandsStillIsNotTheClustersFault(t *testing.T) {
	stall := history.Span{From: 8 * time.Second, Until: 12 * time.Second}
	w := weather{stalls: []history.Span{stall}, length: 30 * time.Second, answer: func(o *history.Op) {
		switch {
		case o.Invoke >= 7800*ms && o.Invoke < stall.Until:
			hung(o)
			o.Return = max(o.Return, stall.Until+ms)
		case o.Level == history.Linearizable && o.Invoke >= stall.Until && o.Invoke < stall.Until+2800*ms:
			refused(o)
		}
	}}
	r := Check(w.history(), Options{Least: 1})
	if r.Verdict != Holds || r.Stats.Availability.Stalls != 1 || r.Stats.Availability.Stalled != 4*time.Second {
		t.Errorf("%s %v", r.Sentence, r.Findings)
	}
	w.stalls = nil
	if r := Check(w.history(), Options{Least: 1}); r.Verdict != Violated {
		t.Errorf("without the stall: %s", r.Sentence)
	}
	w.stalls = []history.Span{{From: 0, Until: 7 * time.Second}, stall}
	if r := Check(w.history(), Options{Least: 1}); r.Verdict != Void || !strings.Contains(r.Sentence, "stood still 2 times, for 11s of 30s") {
		t.Errorf("%s", r.Sentence)
	}
	w.stalls, w.answer = []history.Span{stall}, func(o *history.Op) {
		if o.Level == history.Linearizable && o.Invoke >= stall.Until && o.Invoke < stall.Until+5*time.Second {
			refused(o)
		}
	}
	if r := Check(w.history(), Options{Least: 1}); r.Verdict != Violated || !strings.Contains(r.Sentence, "since the machine stood still") {
		t.Errorf("%s", r.Sentence)
	}
}

func TestTheLedgerIsVoidWhereItCanNotTell(t *testing.T) {
	h := weather{length: 5 * time.Second, answer: func(*history.Op) {}}.history()
	h.Run.Placement = nil
	if r := Check(h, Options{Least: 1}); r.Verdict != Void || !strings.Contains(r.Sentence, "not recorded") {
		t.Errorf("%s", r.Sentence)
	}
	everybody := band(0, "kill-all", time.Second, 20*time.Second, "n1", "n2", "n3", "n4", "n5")
	h = weather{faults: []history.Band{everybody}, length: 20 * time.Second, answer: func(o *history.Op) {
		if has(o, everybody) {
			o.Outcome, o.Code = history.Fail, "unavailable"
		}
	}}.history()
	if r := Check(h, Options{Least: 1}); r.Verdict != Void || !strings.Contains(r.Sentence, "nothing could be judged during any fault") {
		t.Errorf("%s", r.Sentence)
	}
}

// Whatever faults overlap: a cluster that answers as the contract has it is never
// found at fault. It is written without epochs: an operation is served if, all the
// time while it was under way and for an election's time before, a quorum could be
// reached.
func TestAClusterThatKeepsItsPromisesIsNotFoundAtFault(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	placement := [][]string{{"n1", "n2", "n3"}, {"n3", "n4", "n5"}}
	judged := 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		var faults []history.Band
		for i := range 4 {
			from := time.Duration(random.IntN(20_000)) * ms
			some := slices.Clone(nodes)
			random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			kind := []string{"kill-one", "pause-one", "cut-halves", "cut-one", "stutter", "bridge", "disk-full", "clock-jump", "isolate"}[random.IntN(9)]
			b := band(i, kind, from, from+time.Duration(1_000+random.IntN(8_000))*ms, some[0])
			switch kind {
			case "cut-halves":
				b.Nodes, b.Apart = some[:2], [][]string{some[:2], some[2:]}
			case "cut-one", "isolate":
				b.Apart, b.ClientsToo = [][]string{some[:1], some[1:]}, kind == "isolate"
			case "bridge":
				b.Nodes, b.Apart = nil, [][]string{some[:2], some[2:4]}
			}
			faults = append(faults, b)
		}
		slices.SortFunc(faults, func(a, b history.Band) int { return int(a.From - b.From) })
		reach := func(a, b string, at time.Duration) bool {
			for _, f := range faults {
				if at < f.From || at >= f.Until {
					continue
				}
				switch f.Kind {
				case "kill-one", "pause-one", "stutter", "disk-full":
					if f.Nodes[0] == a || f.Nodes[0] == b {
						return false
					}
				case "cut-halves", "cut-one", "isolate", "bridge":
					side := func(n string) int {
						return slices.IndexFunc(f.Apart, func(g []string) bool { return slices.Contains(g, n) })
					}
					if sa, sb := side(a), side(b); sa >= 0 && sb >= 0 && sa != sb {
						return false
					}
				}
			}
			return true
		}
		quorum := func(node string, partition int, at time.Duration) bool {
			n := 0
			for _, r := range placement[partition] {
				if reach(node, r, at) {
					n++
				}
			}
			return n >= 2
		}
		election := time.Duration(2_000+random.IntN(900)) * ms
		h := weather{faults: faults, length: 30 * time.Second, answer: func(o *history.Op) {
			if !reach(o.Node, o.Node, o.Invoke) { // dead
				hung(o)
				return
			}
			for _, f := range faults {
				if f.ClientsToo && has(o, f) && f.Nodes[0] == o.Node {
					hung(o)
					return
				}
			}
			switch {
			case o.Level == history.Linearizable && !quorum(o.Node, o.Partition, o.Invoke):
				refused(o)
			case o.Level == history.Linearizable:
				for _, f := range faults { // each change may cost an election
					for _, change := range []time.Duration{f.From, f.Until} {
						if o.Invoke >= change && o.Invoke < change+election && random.IntN(3) > 0 {
							refused(o)
						}
					}
				}
			case !o.Write() && !slices.ContainsFunc(placement[o.Partition], func(r string) bool { return reach(o.Node, r, o.Invoke) }):
				refused(o) // it keeps no write of its own for long
				if random.IntN(2) == 0 {
					o.Outcome, o.Reason = history.OK, ""
				}
			}
		}}.history()
		// Own writes are to be shown: do not refuse those reads.
		taken := map[string]time.Duration{}
		for i := range h.Ops {
			o := &h.Ops[i]
			if o.Level != history.Eventual {
				continue
			}
			if k := o.Node + o.Key; o.Write() && o.Outcome == history.OK {
				taken[k] = o.Return
			} else if _, there := taken[k]; there && o.Reason == "NO_QUORUM" {
				o.Outcome, o.Reason = history.OK, ""
			}
		}
		r := Check(h, Options{Least: 1})
		if len(r.Findings) > 0 {
			t.Fatalf("seed %d: %v\n%+v", seed, r.Findings[0], faults)
		}
		for _, c := range r.Workloads[0].Checkers {
			judged += c.Seen
		}
	}
	if judged < 60*1_000 {
		t.Errorf("only %d operations judged", judged)
	}
}

// A node without a replica may say that it has not found one again after a cut, for a
// moment, or that none has caught up with what it knows; one with a replica may not.
func TestTheLedgerKnowsWhoIsLonely(t *testing.T) {
	cutOff := band(0, "isolate", time.Second, 4*time.Second, "n1")
	cutOff.Apart = [][]string{{"n1"}, {"n2", "n3", "n4", "n5"}}
	for name, c := range map[string]struct {
		node, reason string
		partition    int
		at           time.Duration
		holds        bool
	}{
		"at once":             {"n1", "NO_REPLICA", 1, 4500 * ms, true},
		"long after":          {"n1", "NO_REPLICA", 1, 6500 * ms, false},
		"never cut off":       {"n2", "NO_REPLICA", 1, 4500 * ms, false},
		"behind":              {"n2", "SESSION_BEHIND", 1, 7 * time.Second, true},
		"behind by itself":    {"n2", "SESSION_BEHIND", 0, 7 * time.Second, false},
		"a replica at hand":   {"n1", "NO_REPLICA", 0, 4500 * ms, false},
		"for another reason":  {"n1", "OVERLOADED", 1, 4500 * ms, false},
		"linearizable no end": {"n1", "", 1, 4500 * ms, true},
	} {
		h := weather{faults: []history.Band{cutOff}, length: 10 * time.Second, answer: func(o *history.Op) {
			if o.Level == history.Linearizable && o.Node == "n1" && o.Invoke > time.Second && o.Invoke < 4*time.Second {
				refused(o)
			}
			if c.reason != "" && o.Level == history.Eventual && !o.Write() && o.Node == c.node && o.Partition == c.partition && o.Invoke >= c.at && o.Invoke < c.at+200*ms {
				o.Outcome, o.Reason = history.Fail, c.reason
			}
		}}.history()
		for i := range h.Ops { // nobody reads what the node has taken itself
			if h.Ops[i].Write() {
				h.Ops[i].Key += "/written"
			}
		}
		r := Check(h, Options{Least: 1})
		if (r.Verdict != Violated) != c.holds {
			t.Errorf("%s: %s", name, r.Sentence)
		}
	}
}

// A node that is behind with everything for a moment starves on a busy machine; one
// whose others overtake a request has let that hang, and one that is silent for long
// hangs.
// A node that restarts where it reaches no majority refuses everything until it does,
// and then for no longer than a start takes.
func TestTheLedgerKnowsAnUnregisteredStart(t *testing.T) {
	cut := band(0, "cut-halves", 5050*ms, 45050*ms, "n1", "n2")
	cut.Apart = [][]string{{"n1", "n2"}, {"n3", "n4", "n5"}}
	kill := band(1, "kill-one", 7050*ms, 9050*ms, "n1")
	for name, c := range map[string]struct {
		until  time.Duration // n1 refuses
		faults []history.Band
		found  bool
	}{
		"until the heal":                     {47 * time.Second, []history.Band{cut, kill}, false},
		"long after the heal":                {75 * time.Second, []history.Band{cut, kill}, true},
		"without a restart":                  {47 * time.Second, []history.Band{cut}, true},
		"with a majority, for long":          {40 * time.Second, []history.Band{kill}, true},
		"with a majority, as a start may be": {25 * time.Second, []history.Band{kill}, false},
	} {
		w := weather{length: 80 * time.Second, faults: c.faults, answer: func(o *history.Op) {
			if len(c.faults) == 2 {
				cutAsItShould(o, cut)
			} else if has(o, c.faults[0]) && c.faults[0].Kind == "cut-halves" {
				cutAsItShould(o, cut)
			}
			if o.Node == "n1" && o.Invoke > 9050*ms && o.Invoke < c.until {
				o.Outcome, o.Reason = history.Fail, "NO_REPLICA"
			}
		}}
		eventual := 0
		for _, f := range checkAvailability(&View{History: w.history(), Stats: &Stats{}}).Findings {
			if strings.HasPrefix(f.Why, "an eventual") {
				eventual++
			}
		}
		if (eventual > 0) != c.found {
			t.Errorf("%s: %d findings", name, eventual)
		}
	}
}

func TestTheLedgerKnowsAStarvedNode(t *testing.T) {
	for name, c := range map[string]struct {
		hangs, wakes time.Duration // n4 answers nothing in between
		only         bool          // one request of all
		holds        bool
	}{
		"behind with everything": {4000 * ms, 5700 * ms, false, true},
		"one request hangs":      {4000 * ms, 5700 * ms, true, false},
		"silent for long":        {4000 * ms, 9000 * ms, false, false},
	} {
		done := false
		h := weather{faults: []history.Band{band(0, "clock-jump", time.Second, 9900*ms, "n1")}, length: 12 * time.Second, answer: func(o *history.Op) {
			if o.Node != "n4" || o.Level != history.Linearizable || o.Invoke < c.hangs || o.Invoke >= c.wakes || c.only && done {
				if o.Node == "n4" && !c.only && o.Return > c.hangs && o.Return < c.wakes {
					o.Return = c.wakes
				}
				return
			}
			if done = true; o.Invoke+1500*ms < c.wakes || c.only {
				hung(o)
			} else {
				o.Return = c.wakes
			}
		}}.history()
		r := Check(h, Options{Least: 1})
		if (r.Verdict != Violated) != c.holds {
			t.Errorf("%s: %s", name, r.Sentence)
		}
	}
}

// A session may be refused while what it has seen is out of reach, and not for long once
// it is in reach again.
func TestTheLedgerJudgesSessions(t *testing.T) {
	cut := halves()
	for name, c := range map[string]struct {
		level    history.Level
		from, to time.Duration // sessions are refused in between
		holds    bool
	}{
		"eventual, during a cut":            {history.Eventual, 6 * time.Second, 15 * time.Second, true},
		"linearizable, during a cut":        {history.Linearizable, 6 * time.Second, 15 * time.Second, true},
		"eventual, for a moment after":      {history.Eventual, 6 * time.Second, 18 * time.Second, true},
		"linearizable, for a moment after":  {history.Linearizable, 6 * time.Second, 18 * time.Second, true},
		"eventual, long after the cut":      {history.Eventual, 21 * time.Second, 22 * time.Second, false},
		"linearizable, long after the cut":  {history.Linearizable, 21 * time.Second, 22 * time.Second, false},
		"eventual, stuck since the cut":     {history.Eventual, 6 * time.Second, time.Minute, false},
		"linearizable, stuck since the cut": {history.Linearizable, 6 * time.Second, time.Minute, false},
	} {
		h := weather{faults: []history.Band{cut}, length: 25 * time.Second, answer: func(o *history.Op) {
			cutAsItShould(o, cut)
			if o.Node == "n4" && o.Level == c.level {
				o.Session = "s"
				if o.Invoke >= c.from && o.Invoke < c.to {
					o.Outcome, o.Reason = history.Fail, "SESSION_BEHIND"
				}
			}
		}}.history()
		if r := Check(h, Options{Least: 1}); (r.Verdict != Violated) != c.holds {
			t.Errorf("%s: %s", name, r.Sentence)
		}
	}
}

// A write that several nodes have to hold is acknowledged where so many are in reach, and
// nowhere else.
func TestTheLedgerJudgesAcks(t *testing.T) {
	cut := halves() // n1 n2 | n3 n4 n5
	for name, c := range map[string]struct {
		node  string
		acks  int
		fails bool
		holds bool
	}{
		"two of two":             {"n1", 2, false, true},
		"two of two, refused":    {"n1", 2, true, false},
		"three of two, refused":  {"n1", 3, true, true},
		"three of two, done":     {"n1", 3, false, false},
		"three of three":         {"n4", 3, false, true},
		"three of three refused": {"n4", 3, true, false},
		"four of three, refused": {"n4", 4, true, true},
		"four of three, done":    {"n4", 4, false, false},
	} {
		h := weather{faults: []history.Band{cut}, length: 20 * time.Second, answer: func(o *history.Op) {
			cutAsItShould(o, cut)
			if o.Node == c.node && o.Level == history.Eventual && o.Write() {
				o.Acks = c.acks
				if has(o, cut) && (c.fails || o.Invoke < cut.From+2*time.Second) {
					o.Outcome, o.Reason = history.Fail, "TOO_FEW_ACKS"
				}
			}
		}}.history()
		if r := Check(h, Options{Least: 1}); (r.Verdict != Violated) != c.holds {
			t.Errorf("%s: %s", name, r.Sentence)
		}
	}
}
