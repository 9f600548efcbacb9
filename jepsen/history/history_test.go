package history

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// record is a small run.
func record(t *testing.T) string {
	t.Helper()
	var file bytes.Buffer
	var clock time.Duration
	r := NewRecorder(&file, func() time.Duration { clock += time.Millisecond; return clock })
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(r.Write(Event{Type: TypeRun, Run: &Run{Format: Format, Workloads: []string{"register"}, Nodes: []string{"n1"}, Partitions: 2, Placement: [][]string{{"n1"}, {"n1"}}}}))
	put := Op{Process: 1, Func: Put, Level: Linearizable, Key: "a", Partition: 1, Value: "<1>", Node: "n1"}
	check(r.Invoke(&put))
	get := Op{Process: 2, Func: Get, Level: Linearizable, Key: "a", Partition: 1, Node: "n1"}
	check(r.Invoke(&get))
	check(r.Write(Event{Type: TypeFault, Fault: &Fault{Number: 0, Kind: "cut-one", Nodes: []string{"n1"}}}))
	put.Outcome, put.Version = OK, "4-7-n1-aaaa"
	check(r.Complete(&put))
	get.Outcome, get.Found, get.Value, get.Version = OK, true, "<1>", put.Version
	check(r.Complete(&get))
	open := Op{Process: 1, Func: Put, Level: Eventual, Key: "b", Value: "2"}
	check(r.Invoke(&open))
	check(r.Write(Event{Type: TypeHealed, Fault: &Fault{Number: 0, Kind: "cut-one", Nodes: []string{"n1"}, Felt: true, Effect: "7 frames cut"}}))
	check(r.Write(Event{Type: TypeFate, Fate: &Fate{Op: open.ID, Receipt: "wr_", Fate: "committed"}}))
	check(r.Write(Event{Type: TypeStall, Stall: &Stall{For: 3 * time.Millisecond}}))
	check(r.Write(Event{Type: TypeEnd, End: &End{Settled: true}}))
	if got, want := r.Counts(), (Counts{OK: 2, Open: 1}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	check(r.Flush())
	return file.String()
}

func TestReadTakesBackWhatWasRecorded(t *testing.T) {
	h, err := Read(strings.NewReader(record(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Op{
		{ID: 0, Process: 1, Func: Put, Level: Linearizable, Key: "a", Partition: 1, Value: "<1>", Node: "n1", Outcome: OK, Version: "4-7-n1-aaaa", Invoke: 2 * time.Millisecond, Return: 5 * time.Millisecond},
		{ID: 1, Process: 2, Func: Get, Level: Linearizable, Key: "a", Partition: 1, Value: "<1>", Node: "n1", Outcome: OK, Found: true, Version: "4-7-n1-aaaa", Invoke: 3 * time.Millisecond, Return: 6 * time.Millisecond},
		{ID: 2, Process: 1, Func: Put, Level: Eventual, Key: "b", Value: "2", Invoke: 7 * time.Millisecond},
	}
	if !reflect.DeepEqual(h.Ops, want) {
		t.Errorf("operations\n%+v, want\n%+v", h.Ops, want)
	}
	if len(h.Faults) != 1 || !h.Faults[0].Healed || h.Faults[0].From != 4*time.Millisecond || h.Faults[0].Until != 8*time.Millisecond || !h.Faults[0].Felt {
		t.Errorf("faults %+v", h.Faults)
	}
	if len(h.Fates) != 1 || h.End == nil || !h.End.Settled || h.Length != 11*time.Millisecond || !reflect.DeepEqual(h.Stalls, []Span{{7 * time.Millisecond, 10 * time.Millisecond}}) {
		t.Errorf("fates %+v, end %+v, length %v", h.Fates, h.End, h.Length)
	}
}

// A run that is killed leaves a last line that is not whole.
func TestReadOfAFileThatBrokeOff(t *testing.T) {
	text := record(t)
	for cut := strings.Index(text, "\n") + 1; cut < len(text); cut++ {
		h, err := Read(strings.NewReader(text[:cut]))
		if err != nil {
			t.Fatalf("the first %d bytes: %v", cut, err)
		}
		if h.End != nil {
			t.Fatalf("the first %d of %d bytes have an end", cut, len(text))
		}
	}
}

func TestReadRefuses(t *testing.T) {
	run := `{"type":"run","at":0,"run":{"format":1}}` + "\n"
	invoke := `{"type":"invoke","at":1,"op":{"id":0,"process":1,"f":"put","level":"linearizable","key":"a","value":"1"}}` + "\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                       {"", "empty"},
		"no run":                        {invoke, "begins with"},
		"two runs":                      {run + run, "begins with"},
		"another format":                {`{"type":"run","at":0,"run":{"format":2}}` + "\n", "format 2"},
		"not JSON":                      {run + "x\n", "invalid character"},
		"an unknown type":               {run + `{"type":"x","at":1}` + "\n", "unknown type"},
		"back in time":                  {run + `{"type":"note","at":-1,"note":"x"}` + "\n", "after one at"},
		"a placement of another number": {`{"type":"run","at":0,"run":{"format":1,"partitions":2,"placement":[["n1"]]}}` + "\n", "1 partitions are placed, of 2"},
		"a partition that nobody holds": {
			`{"type":"run","at":0,"run":{"format":1,"partitions":1,"placement":[["n1"]]}}` + "\n" + strings.Replace(invoke, `"f"`, `"partition":1,"f"`, 1), "partition 1 of 1",
		},
		"another partition": {
			run + invoke + `{"type":"ok","at":2,"op":{"id":0,"process":1,"f":"put","level":"linearizable","key":"a","value":"1","partition":1,"outcome":"ok"}}` + "\n", "ends as another",
		},
		"a number left out":    {run + strings.Replace(invoke, `"id":0`, `"id":1`, 1), "invoked as number 0"},
		"an end without begin": {run + strings.Replace(invoke, "invoke", "ok", 1), "had not begun"},
		"another outcome": {
			run + invoke + `{"type":"ok","at":2,"op":{"id":0,"process":1,"f":"put","level":"linearizable","key":"a","value":"1","outcome":"fail"}}` + "\n", `ends as "fail"`,
		},
		"another value": {
			run + invoke + `{"type":"ok","at":2,"op":{"id":0,"process":1,"f":"put","level":"linearizable","key":"a","value":"2","outcome":"ok"}}` + "\n", "ends as another",
		},
		"a heal without a fault":       {run + `{"type":"healed","at":1,"fault":{"number":3}}` + "\n", "fault 3"},
		"a stall from before it began": {run + `{"type":"stall","at":1,"stall":{"for":2}}` + "\n", "without what"},
		"an empty line's worth":        {run + `{"type":"fate","at":1}` + "\n", "without what"},
	} {
		if _, err := Read(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	long := run + `{"type":"note","at":1,"note":"` + strings.Repeat("x", maxLine) + `"}` + "\n"
	if _, err := Read(strings.NewReader(long)); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a line without end: %v", err)
	}
}

func TestRecorderKeepsItsFirstFailure(t *testing.T) {
	broken := errors.New("no space")
	r := NewRecorder(writer(func([]byte) (int, error) { return 0, broken }), func() time.Duration { return 0 })
	for range 10_000 {
		if err := r.Write(Event{Type: TypeNote, Note: "x"}); errors.Is(err, broken) {
			if !errors.Is(r.Flush(), broken) {
				t.Error("Flush does not tell")
			}
			return
		}
	}
	t.Fatal("no failure is told")
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"type":"run","at":0,"run":{"format":1}}` + "\n" + `{"type":"invoke","at":1,"op":{"id":0,"f":"get","level":"eventual","key":"a"}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		for i, o := range h.Ops {
			if o.ID != i || o.Outcome != "" && o.Return < o.Invoke {
				t.Errorf("operation %d: %+v", i, o)
			}
		}
	})
}
