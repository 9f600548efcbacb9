package cluster

import (
	"encoding/json"
	"os"
	"testing"
)

func TestStoppedReadsTheState(t *testing.T) {
	for stat, want := range map[string]bool{
		"7 (capstan) T 1 7": true, "7 (a) T (b) S 1 7": false, "7 (a) S (b) T 1 7": true, "7 (capstan) t 1": false, "": false, ")": false,
	} {
		if got := stopped(stat); got != want {
			t.Errorf("%q: %t", stat, got)
		}
	}
}

// What processes count is added up, whichever of them still runs.
func TestCountersOfAllProcesses(t *testing.T) {
	b := &bends{file: t.TempDir() + "/n1.fault.json", volatile: true}
	say := func(c countersFile) {
		t.Helper()
		text, err := json.Marshal(c)
		if err == nil {
			err = os.WriteFile(b.counters(), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, its, err := b.read(7); its || err != nil {
		t.Errorf("nothing was written: %t, %v", its, err)
	}
	say(countersFile{PID: 7, Counters: Counters{SyncFailed: 2}})
	if _, its, err := b.read(8); its || err != nil {
		t.Errorf("another process wrote: %t, %v", its, err)
	}
	for _, pid := range []int{6, 7} { // 6 never wrote
		if err := b.ended(pid); err != nil {
			t.Fatal(err)
		}
	}
	say(countersFile{PID: 8, Counters: Counters{SyncFailed: 3, ClockReads: 1}})
	c, its, err := b.read(8)
	if got, want := b.past.Plus(c.Counters), (Counters{SyncFailed: 5, ClockReads: 1}); !its || err != nil || got != want {
		t.Errorf("%+v, want %+v: %t, %v", got, want, its, err)
	}
	if got := (Counters{SyncFailed: 5}).Since(Counters{SyncFailed: 2, ClockReads: 4}); got != (Counters{SyncFailed: 3}) {
		t.Errorf("since: %+v", got)
	}
	for i := range 2 {
		if err := b.write(Control{DiskFull: true, ClockOffsetMillis: -5}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(b.file)
		want := `{"generation":` + string(rune('1'+i)) + `,"clock_offset_ms":-5,"disk_full":true,"volatile":true}` + "\n"
		if err != nil || string(text) != want {
			t.Errorf("control %s, want %s: %v", text, want, err)
		}
	}
}

func FuzzCounters(f *testing.F) {
	f.Add([]byte(`{"pid":7,"seen":3,"volatile":true,"sync_delayed":1,"sync_failed":2,"write_refused":3,"clock_reads":4}`))
	f.Add([]byte(`{"pid":"7"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := decodeCounters(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeCounters(again); err != nil || got != c {
			t.Errorf("%+v, then %+v, %v", c, got, err)
		}
	})
}
