package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// scanned is what a scan gave.
type scanned struct {
	keys, values []string
	more, ended  bool
	messages     int
}

// scan reads a range at m; during is called after each message.
func (m *machine) scan(start, end string, limit uint32, during func(n int)) (scanned, error) {
	return m.scanFor(&capstanv1.ScanRequest{Start: []byte(start), End: []byte(end), Limit: limit}, during)
}

func (m *machine) scanFor(req *capstanv1.ScanRequest, during func(n int)) (scanned, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got scanned
	p := m.running()
	if p == nil {
		return got, errPowerOff
	}
	err := p.router.Scan(ctx, req, func(resp *capstanv1.ScanResponse) error {
		for _, e := range resp.GetEntries() {
			got.keys = append(got.keys, string(e.GetKey()))
			got.values = append(got.values, string(e.GetValue()))
		}
		if end := resp.GetEnd(); end != nil {
			got.more, got.ended = end.GetMore(), true
		}
		if got.messages++; during != nil {
			during(got.messages)
		}
		return nil
	})
	return got, err
}

// withStranger has three machines whose cluster holds all, and a fourth that
// joined later and holds no replica.
func withStranger(t *testing.T, test func(t *testing.T, w *world, fourth *machine)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1)
		defer w.close()
		w.formed()
		fourth := w.addMachine()
		fourth.start()
		w.eventually(time.Minute, "the fourth has joined", func() error {
			if !fourth.running().ring().Placed() {
				return errors.New("it does not know the ring")
			}
			return nil
		})
		if held := fourth.running().replicas.all(); len(held) != 0 {
			t.Fatalf("the fourth node holds %d replicas", len(held))
		}
		test(t, w, fourth)
	})
}

// A node without replicas serves everything, by one hop.
func TestNodeWithoutReplicas(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		for i := range 20 {
			key := fmt.Sprint("k", i)
			fourth.mustPut(key, key)
			fourth.mustGet(key, key)
			w.machines[i%3].mustGet(key, key)
		}
		resp, err := fourth.running().router.Delete(t.Context(), &capstanv1.DeleteRequest{Key: []byte("k0")})
		if err != nil || !resp.GetExisted() {
			t.Errorf("delete: %v, %v", resp, err)
		}
		fourth.mustGet("k0", "")
		_, err = fourth.running().router.Put(t.Context(), &capstanv1.PutRequest{
			Key: []byte("k1"), Value: []byte("x"), Condition: &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}},
		})
		var e *replication.Error
		if !errors.As(err, &e) || e.Reason != replication.ConditionFailed || e.Current == nil {
			t.Errorf("a condition that fails at the end of a hop: %v", err)
		}
		got, err := fourth.scan("", "", 0, nil)
		if err != nil || len(got.keys) != 19 || !got.ended || got.more {
			t.Errorf("scan: %+v, %v", got, err)
		}
		// While leaders die it goes on.
		for round := range 3 {
			leader := w.leaderOf(partition.ID(round))
			leader.crash(0)
			for p := range 4 {
				w.leaderOf(partition.ID(p), w.others(leader, fourth)...)
			}
			key := keyIn(partition.ID(round), 4, 0)
			fourth.mustPut(key, "again")
			fourth.mustGet(key, "again")
			leader.start()
			w.awaitReady(leader)
		}
	})
}

// Scans give all live keys of the range in byte order, wherever asked.
func TestScanOrder(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		want := map[string]string{}
		for i := range 300 {
			key := []string{"a", "b\x00", "b", "\xff", "{t}", "z/"}[w.random(6)] + fmt.Sprint(w.random(200))
			if i%7 == 6 {
				delete(want, key)
				if _, err := w.machines[i%4].running().router.Delete(t.Context(), &capstanv1.DeleteRequest{Key: []byte(key)}); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want[key] = fmt.Sprint(i)
			w.machines[i%4].mustPut(key, want[key])
		}
		var keys []string
		for key := range want {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for i := range 60 {
			req := &capstanv1.ScanRequest{KeysOnly: i%5 == 4}
			in := func(string) bool { return true }
			switch i % 3 {
			case 0:
				start, end := keys[w.random(len(keys))], keys[w.random(len(keys))]
				if start > end {
					start, end = end, start
				}
				req.Start, req.End = []byte(start), []byte(end)
				in = func(k string) bool { return k >= start && k < end }
			case 1:
				prefix := []string{"a", "b", "b\x00", "\xff", "{t}", "{t}1", "nothing"}[w.random(7)]
				req.Prefix = []byte(prefix)
				in = func(k string) bool { return strings.HasPrefix(k, prefix) }
			}
			var expect []string
			for _, k := range keys {
				if in(k) {
					expect = append(expect, k)
				}
			}
			more := false
			if i%2 == 0 {
				req.Limit = uint32(1 + w.random(20))
				if more = len(expect) > int(req.Limit); more {
					expect = expect[:req.Limit]
				}
			}
			got, err := w.machines[i%4].scanFor(req, nil)
			if err != nil || !got.ended || got.more != more || !slices.Equal(got.keys, expect) {
				t.Errorf("%v: %v\n got %q more %v\nwant %q more %v", req, err, got.keys, got.more, expect, more)
			}
			for j, k := range got.keys {
				if wanted := want[k]; got.values[j] != wanted && !(req.GetKeysOnly() && got.values[j] == "") {
					t.Errorf("%q has %q, want %q", k, got.values[j], wanted)
				}
			}
		}
	})
}

// fill writes n values that take several pages into one partition.
func (m *machine) fill(tag string, n int, value string) {
	m.world.t.Helper()
	for i := range n {
		m.mustPut(fmt.Sprintf("{%s}%03d", tag, i), value+strings.Repeat(".", 60<<10))
	}
}

// A scan over several pages shows one partition as it was when the scan began,
// read here or under a cursor elsewhere.
func TestScanViewIsPinned(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		const n = 40
		for round, m := range []*machine{fourth, w.machines[0]} {
			before, after := fmt.Sprint("before", round), fmt.Sprint("after", round)
			m.fill("t", n, before)
			got, err := m.scanFor(&capstanv1.ScanRequest{Prefix: []byte("{t}")}, func(message int) {
				if message == 1 {
					w.machines[1].fill("t", n, after)
					w.machines[1].mustPut("{t}015x", after)
					if _, err := w.machines[1].running().router.Delete(t.Context(), &capstanv1.DeleteRequest{Key: []byte("{t}030")}); err != nil {
						t.Error(err)
					}
				}
			})
			if err != nil || len(got.keys) != n || got.messages < 4 {
				t.Fatalf("at %s: %d keys in %d messages, %v", m.name, len(got.keys), got.messages, err)
			}
			for i, value := range got.values {
				if !strings.HasPrefix(value, before) {
					t.Errorf("at %s: %s is %.10s", m.name, got.keys[i], value)
				}
			}
			m.mustGet("{t}015x", after)
			if _, err := m.running().router.Delete(t.Context(), &capstanv1.DeleteRequest{Key: []byte("{t}015x")}); err != nil {
				t.Error(err)
			}
		}
		w.noCursors()
	})
}

func (w *world) noCursors() {
	w.t.Helper()
	w.eventually(time.Second, "all cursors are closed", func() error {
		for _, m := range w.machines {
			if open := m.cursorsOpen(); open > 0 {
				return fmt.Errorf("%d at %s", open, m.name)
			}
		}
		return nil
	})
}

func (m *machine) cursorsOpen() int {
	c := m.running().cursors
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// A cursor that nobody comes back to is let go; its scan then fails, and says so.
func TestIdleCursorExpires(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		fourth.fill("t", 40, "x")
		got, err := fourth.scanFor(&capstanv1.ScanRequest{Prefix: []byte("{t}")}, func(message int) {
			if message == 1 {
				time.Sleep(cursorIdle + time.Second)
				w.noCursors()
			}
		})
		var e *replication.Error
		if !errors.As(err, &e) || e.Outcome != replication.NotApplied || !strings.Contains(e.Error(), "gone") {
			t.Errorf("a scan that was idle too long: %v", err)
		}
		if got.ended {
			t.Error("it says that it is complete")
		}
	})
}

// A node keeps a bounded number of views for others.
func TestCursorsAreBounded(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		fourth.fill("t", 40, "x")
		p := partition.Of([]byte("{t}"), 4)
		router := fourth.running().router
		var open []pages
		var err error
		for range 3*maxCursors + 1 {
			var source pages
			if source, err = router.open(t.Context(), p, scanPart{start: []byte("{t}")}); err != nil {
				break
			}
			open = append(open, source)
		}
		var e *replication.Error
		if !errors.As(err, &e) || e.Reason != replication.Overloaded {
			t.Errorf("after %d open scans: %v", len(open), err)
		}
		for _, m := range w.machines {
			if n := m.cursorsOpen(); n > maxCursors {
				t.Errorf("%s keeps %d cursors", m.name, n)
			}
		}
		for _, source := range open {
			source.close()
		}
		w.noCursors()
		if _, err := fourth.scanFor(&capstanv1.ScanRequest{Prefix: []byte("{t}")}, nil); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A scan that can not read one of its partitions fails before it gives an
// entry.
func TestScanMissesPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 1, func(c *Config) { c.Partitions = 16 })
		defer w.close()
		w.formed()
		ring := w.machines[0].running().ring()
		for p := range ring.Partitions {
			w.machines[0].mustPut(keyIn(partition.ID(p), 16, 0), "x")
		}
		lost := ring.Partitions[0].Replicas
		for _, replica := range lost[:2] {
			w.machineOf(replica.Node).crash(0)
		}
		time.Sleep(10 * time.Second)
		served := 0
		for _, m := range w.machines {
			if m.running() == nil {
				continue
			}
			got, err := m.scan("", "", 0, nil)
			var e *replication.Error
			if !errors.As(err, &e) || e.Outcome != replication.NotApplied {
				t.Errorf("a scan at %s with a partition lost: %v", m.name, err)
			}
			if len(got.keys) > 0 || got.ended {
				t.Errorf("a scan at %s gave %d of the keys", m.name, len(got.keys))
			}
			for p := range ring.Partitions {
				alive := 0
				for _, replica := range ring.Partitions[p].Replicas {
					if w.machineOf(replica.Node) != nil {
						alive++
					}
				}
				key := keyIn(partition.ID(p), 16, 0)
				prefix, _, _ := strings.Cut(key, "}")
				got, err := m.scanFor(&capstanv1.ScanRequest{Prefix: []byte(prefix + "}")}, nil)
				if alive >= 2 {
					served++
					if err != nil || len(got.keys) != 1 {
						t.Errorf("partition %d has %d replicas, and a scan at %s gives %v, %v", p, alive, m.name, got.keys, err)
					}
				} else if err == nil {
					t.Errorf("partition %d has %d replicas, and a scan at %s works", p, alive, m.name)
				}
			}
		}
		if served == 0 {
			t.Error("no partition kept its quorum")
		}
	})
}
