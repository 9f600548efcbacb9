package report

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

func drawFaults(t *rapid.T) (faults []history.Band) {
	for i := range rapid.IntRange(0, 12).Draw(t, "faults") {
		from := time.Duration(rapid.IntRange(0, 60_000).Draw(t, "from")) * time.Millisecond
		f := history.Band{Fault: history.Fault{Number: i, Kind: "cut-one"}, From: from, Healed: rapid.IntRange(0, 9).Draw(t, "healed") > 0}
		f.Until = from + time.Duration(rapid.IntRange(0, 20_000).Draw(t, "for"))*time.Millisecond
		faults = append(faults, f)
	}
	return faults
}

// No two faults lie upon each other, none is lost, and there are no more lanes
// than faults at one moment.
func TestBandsAreReadable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		faults := drawFaults(t)
		a := newAxis(60 * time.Second)
		all, lanes := bands(faults, a)
		if len(all) != len(faults) {
			t.Fatalf("%d bands of %d faults", len(all), len(faults))
		}
		most := 0
		for _, f := range faults {
			at := 0
			for _, g := range faults {
				if g.From <= f.From && (f.From < end(g, a) || g.Number == f.Number) {
					at++
				}
			}
			most = max(most, at)
		}
		if lanes > most {
			t.Errorf("%d lanes, and %d faults at once", lanes, most)
		}
		for i, x := range all {
			for _, y := range all[i+1:] {
				fx, fy := faults[x.Number], faults[y.Number]
				if x.Lane == y.Lane && fx.From < end(fy, a) && fy.From < end(fx, a) {
					t.Errorf("faults %d and %d are in one lane", x.Number, y.Number)
				}
			}
			if x.X < 0 || x.X > width || x.Lane >= lanes {
				t.Errorf("a band outside: %+v", x)
			}
		}
	})
}

// Every moment of a run, however long, falls into one bucket, and those are few.
func TestAxis(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAxis(time.Duration(rapid.Int64Range(0, int64(400*24*time.Hour)).Draw(t, "length")))
		if a.count < 1 || a.count > mostBuckets || a.moment*time.Duration(a.count) < a.length || a.moment*time.Duration(a.count-1) >= a.length {
			t.Fatalf("%+v", a)
		}
		at := time.Duration(rapid.Int64Range(0, int64(a.length)).Draw(t, "at"))
		if b := a.bucket(at); a.x(at) < a.edge(b)-1e-6 || a.x(at) > a.edge(b+1)+1e-6 || a.seconds(b) <= 0 {
			t.Errorf("%v is in bucket %d of %+v", at, b, a)
		}
		ticks := a.ticks()
		if len(ticks) < 2 || len(ticks) > 12 {
			t.Errorf("%d ticks: %+v", len(ticks), ticks)
		}
	})
}

func TestRateCountsEveryOperation(t *testing.T) {
	h := aRun(2000)
	h.Ops[100].Outcome = "" // it counts, too
	a := newAxis(h.Length)
	chart := newRateChart(h, a)
	var classes []string
	for _, shape := range chart.Areas {
		classes = append(classes, shape.Class)
	}
	if !slices.Equal(classes, []string{"answered", "refused", "unknown"}) || len(chart.Ticks) == 0 {
		t.Errorf("%v, %v", classes, chart.Ticks)
	}
	quiet := newRateChart(&history.History{}, newAxis(0))
	if len(quiet.Areas) != 0 || len(quiet.Ticks) == 0 {
		t.Errorf("of nothing: %+v", quiet)
	}
}

// A drawing of many operations leaves out none that stands out.
func TestThinKeepsTheSlowest(t *testing.T) {
	a := newAxis(10 * time.Second)
	var ops []*history.Op
	for i := range 5 * mostDots {
		at := time.Duration(i) * 10 * time.Second / (5 * mostDots)
		ops = append(ops, &history.Op{ID: i, Invoke: at, Return: at + time.Millisecond})
	}
	slow := ops[4321]
	slow.Return += 3 * time.Second
	left := thin(ops, a)
	if !slices.Contains(left, slow) || len(left) > mostDots+a.count || len(left) < mostDots/2 {
		t.Errorf("%d are left, the slowest among them: %v", len(left), slices.Contains(left, slow))
	}
	if !slices.IsSortedFunc(left, func(x, y *history.Op) int { return x.ID - y.ID }) {
		t.Error("out of order")
	}
}

func TestStrips(t *testing.T) {
	h := aRun(4000)
	a := newAxis(h.Length)
	all := strips(h, a)
	if len(all) != 15 {
		t.Fatalf("%d strips of 5 nodes at 3 levels", len(all))
	}
	for _, s := range all {
		hit := slices.Contains([]string{"n1", "n2", "n4", "n5"}, s.Node)
		if hit != (len(s.Hit) > 0) {
			t.Errorf("%s: %d faults are shown", s.Node, len(s.Hit))
		}
		whole := s.Node == "n3" || s.Node == "n5" || s.Level == "eventual" && s.Node != "n2"
		if whole != (s.Share == "100 %") {
			t.Errorf("%s at %s: %s", s.Level, s.Node, s.Share)
		}
	}
	for _, c := range []struct {
		part, whole float64
		want        string
	}{{1, 1, "100 %"}, {0, 7, "0 %"}, {99_999, 100_000, "> 99.9 %"}, {1, 100_000, "< 0.1 %"}, {995, 1000, "99.5 %"}, {1, 2, "50 %"}} {
		if got := share(c.part, c.whole); got != c.want {
			t.Errorf("%v of %v is %q, want %q", c.part, c.whole, got, c.want)
		}
	}
}

// Bars of a finding overlap exactly where the operations did.
func TestFindingsShowTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ops []check.Shown
		for range rapid.IntRange(1, 8).Draw(t, "operations") {
			from := rapid.IntRange(0, 50).Draw(t, "from")
			o := check.Shown{Invoke: time.Duration(from), Return: time.Duration(from + rapid.IntRange(1, 20).Draw(t, "for"))}
			o.Outcome = rapid.SampledFrom([]history.Outcome{history.OK, history.Fail, history.Info, ""}).Draw(t, "outcome")
			ops = append(ops, o)
		}
		bars := drawn(ops)
		for i, x := range ops {
			if right := bars[i].Left + bars[i].Width; bars[i].Left < 0 || right > 100.5 || open(x) != (right > 99.9) {
				t.Errorf("bar %d: %+v of %+v", i, bars[i], x)
			}
			for j, y := range ops {
				before := !open(x) && x.Return < y.Invoke
				if left := bars[j].Left-bars[i].Left-bars[i].Width > 0.1; left != before {
					t.Errorf("%+v is left of %+v: %v, and was before it: %v", bars[i], bars[j], left, before)
				}
			}
		}
	})
}

func TestHistogram(t *testing.T) {
	h := newHistogram("", "", []time.Duration{3 * time.Millisecond, 15 * time.Millisecond, 16 * time.Millisecond, 2 * time.Minute})
	var said []string
	for _, b := range h.Bars {
		said = append(said, b.Label+" "+b.Count)
	}
	if len(said) != 14 || said[0] != "< 5 ms 1" || said[2] != "< 20 ms 2" || said[len(said)-1] != "≥ 1 min 1" {
		t.Errorf("%q", said)
	}
}

// Nodes' distributions are added up, and every write is in one part of its bar.
func TestStats(t *testing.T) {
	h := aRun(10)
	r := aResult(h, check.Holds)
	all := measured(r.Stats.Staleness)
	if len(all) != 2 || len(all[0].Bars) != 6 || all[0].Bars[0] != (bar{"fresh", "1 400", 100}) || all[0].Bars[3].Count != "300" || all[0].Bars[5].Label != "> 1 s" {
		t.Errorf("%+v", all)
	}
	if measured(nil) != nil {
		t.Error("something of nothing")
	}
	l := newLedger(r.Stats.Availability)
	if len(l.Rows) != 3 || l.Rows[1].Says != "of 300, 290 refused within 900 ms, 10 without an answer" || len(l.Rows[1].Parts) != 2 || l.Rows[2].Level != "eventual" {
		t.Errorf("%+v", l.Rows)
	}
	if len(l.Away) != 2 || !strings.Contains(l.Away[0].Says, "3 of 8 partitions were refused at first; served again after 1.6 s (half), 2.1 s (all)") || !strings.Contains(l.Away[1].Says, "some node refused for 900 ms; 1 not before") {
		t.Errorf("%+v", l.Away)
	}
	if newLedger(nil) != nil {
		t.Error("a ledger of nothing")
	}
	f := allFates(r.Stats)[0]
	sum := 0.0
	for _, p := range f.Parts {
		sum += p.Width
	}
	if sum < 99.9 || sum > 100.1 || len(f.Parts) != 5 || !strings.Contains(f.Says, "60 superseded (12 %)") || !strings.Contains(f.Says, "7 not asked") {
		t.Errorf("%v: %+v", sum, f)
	}
}

func TestSpansAndClocks(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 300 * time.Nanosecond: "0", 25 * time.Microsecond: "25 µs", 1500 * time.Microsecond: "1.5 ms", 1500 * time.Millisecond: "1.5 s",
		59700 * time.Millisecond: "1 min", 66 * time.Second: "1 min 6 s", time.Hour: "1 h", time.Hour + time.Minute: "1 h 1 min", -time.Second: "-1 s",
	} {
		if got := span(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0", 200 * time.Millisecond: "200 ms", 2500 * time.Millisecond: "2.5 s", 90 * time.Second: "1:30", time.Hour: "1:00:00"} {
		if got := clock(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
}

// A command is read by a shell as it was.
func TestQuote(t *testing.T) {
	words := []string{"plain", "--seed=7", "with space", "it's", "", "$HOME", "a;b", `back\slash`, "new\nline", "*"}
	out, err := exec.Command("sh", "-c", "printf '%s|' "+Quote(words)).Output()
	must(t, err)
	if got, want := string(out), strings.Join(words, "|")+"|"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The same history gives the same page.
func TestPageIsTheSame(t *testing.T) {
	page := func() string {
		var b bytes.Buffer
		h := aRun(3000)
		must(t, Write(&b, h, aResult(h, check.Violated), Options{}))
		return b.String()
	}
	first := page()
	for range 3 {
		if page() != first {
			t.Fatal("another page")
		}
	}
	if strings.Contains(first, "ZgotmplZ") {
		t.Error("the template refused to show something")
	}
	for _, want := range []string{"And 1956 more findings", "judged 2 500, found 1 958"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q", want)
		}
	}
	if !strings.Contains(first, "Register: register/3 is not linearizable") {
		t.Error("the sentence is not there, or says the verdict twice")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
