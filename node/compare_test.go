package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// compare compares the replicas of p through the node of m, as a client does.
func (m *machine) compare(p partition.ID) (*capstanv1.Comparison, error) {
	req := &capstanv1.CompareReplicasRequest{Partition: uint32(p)}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), requestTime)
		resp, err := clusterService{m.running().Node}.CompareReplicas(ctx, req)
		cancel()
		if err != nil || resp.GetComparison().GetResult() != capstanv1.ComparisonResult_COMPARISON_RESULT_PENDING {
			return resp.GetComparison(), err
		}
		req.Id = resp.GetId()
	}
}

func (m *machine) mustCompare(p partition.ID, want capstanv1.ComparisonResult) *capstanv1.Comparison {
	m.world.t.Helper()
	found, err := m.compare(p)
	if err != nil || found.GetResult() != want {
		m.world.t.Fatalf("comparison of partition %d at %s: %v, %v; want %v", p, m.name, found, err, want)
	}
	return found
}

const (
	equal      = capstanv1.ComparisonResult_COMPARISON_RESULT_EQUAL
	different  = capstanv1.ComparisonResult_COMPARISON_RESULT_DIFFERENT
	incomplete = capstanv1.ComparisonResult_COMPARISON_RESULT_INCOMPLETE
)

// Replicas are equal under load, through whichever node they are compared.
func TestReplicasAreEqual(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		for i := range 20 {
			w.machines[i%3].mustWrite(ask{level: eventual}, keyIn(0, 4, i), "e")
			w.machines[i%3].mustPut(keyIn(0, 4, i/2), fmt.Sprint(i))
			for _, m := range w.machines {
				found := m.mustCompare(0, equal)
				if len(found.GetReplicas()) != 3 || found.GetIndex() == 0 || found.GetReplicas()[0].GetRecords() == 0 {
					t.Fatalf("%v", found)
				}
			}
		}
		if results, last := w.machines[0].running().comparer.counts(); results[compareEqual] != 20 || last.IsZero() {
			t.Errorf("counted %v, last %v", results, last)
		}
	})
}

// One value beneath one replica is another: a comparison finds which replica it is, and
// that one, and it alone, goes out of service.
func TestReplicaThatDiffersIsQuarantined(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		n3 := w.machines[2]
		keys := n3.noisy(p)
		w.machines[0].mustCompare(p, equal)
		n3.stop()
		n3.editState(func(db *pebble.DB) error {
			key := stateKey(p, append([]byte{0x10}, keys[5]...))
			value, closer, err := db.Get(key)
			if err != nil {
				return err
			}
			other := bytes.Clone(value)
			other[len(other)-1] ^= 1
			return errors.Join(closer.Close(), db.Set(key, other, pebble.Sync))
		})
		n3.start()
		w.awaitReady(n3)
		found := w.machines[0].mustCompare(p, different)
		sums := map[string]int{}
		for _, r := range found.GetReplicas() {
			sums[string(r.GetDigest())]++
			if r.GetRefusal() != "" {
				t.Errorf("%s: %s", r.GetNode(), r.GetRefusal())
			}
		}
		if len(sums) != 2 {
			t.Errorf("%d digests", len(sums))
		}
		if why := n3.awaitQuarantined(p); !strings.Contains(why.Reason, errDiffers.Error()) {
			t.Errorf("the reason is %q", why.Reason)
		}
		w.shutOut(n3, p, keys)
		again := w.machines[1].mustCompare(p, incomplete)
		for _, r := range again.GetReplicas() {
			if refused := strings.HasPrefix(r.GetRefusal(), "quarantined"); refused != (r.GetNode() == "n3") {
				t.Errorf("%s: %q", r.GetNode(), r.GetRefusal())
			}
		}
		status, err := clusterService{w.machines[1].running().Node}.GetStatus(context.Background(), nil)
		if err != nil || status.GetPartitions()[p].GetComparison().GetResult() != incomplete {
			t.Errorf("status shows %v, %v", status.GetPartitions()[p].GetComparison(), err)
		}
		n3.reopen()
		n3.awaitQuarantined(p)
	})
}

// A node that is down gives no answer; nobody goes out of service for that.
func TestComparisonWithoutAReplica(t *testing.T) {
	inCluster(t, 3, func(w *world) {
		n3 := w.machines[2]
		n3.mustPut(keyIn(0, 4, 0), "v")
		n3.stop()
		w.leaderOf(0, w.others(n3)...)
		w.machines[0].mustCompare(0, incomplete)
		n3.start()
		w.awaitReady(n3)
		w.machines[0].mustCompare(0, equal)
	})
}

// A leader has its partitions compared by itself, each about once a day.
func TestReplicasAreComparedByThemselves(t *testing.T) {
	c := &comparer{due: map[partition.ID]time.Time{}, n: &Node{replicas: &replicaSet{}}}
	if _, ok := c.nextDue(time.Now()); ok {
		t.Error("a node without replicas compares")
	}
	inCluster(t, 3, func(w *world) {
		compared := map[partition.ID]bool{}
		w.eventually(time.Hour, "all partitions are compared", func() error {
			for _, m := range w.machines {
				c := m.running().comparer
				c.nextDue(time.Now())
				c.mu.Lock()
				for p, found := range c.last {
					compared[p] = found.Result == compareEqual
				}
				for p := range c.due {
					if !compared[p] {
						c.due[p] = time.Now() // its day is over
					}
				}
				c.mu.Unlock()
			}
			time.Sleep(compareLook)
			for p := range partition.ID(4) {
				if !compared[p] {
					return fmt.Errorf("partition %d is not, or is not equal", p)
				}
			}
			return nil
		})
	})
}

// A majority of all replicas decides who is wrong, and nothing less.
func TestJudge(t *testing.T) {
	done := func(n byte) digestAnswer {
		return digestAnswer{State: digestDone, Digest: storage.Digest{Index: 1, Sum: [32]byte{n}}}
	}
	none, pending, refused := digestAnswer{}, digestAnswer{State: digestPending}, digestAnswer{State: digestRefused}
	for _, test := range []struct {
		answers []digestAnswer
		late    bool
		want    compareResult
		wrong   []int
	}{
		{[]digestAnswer{done(1)}, false, compareEqual, nil},
		{[]digestAnswer{done(1), done(1), done(1)}, false, compareEqual, nil},
		{[]digestAnswer{done(1), done(2), done(1)}, false, compareDifferent, []int{1}},
		{[]digestAnswer{done(2), done(1), done(1)}, false, compareDifferent, []int{0}},
		{[]digestAnswer{done(1), done(2), done(3)}, false, compareDifferent, nil},
		{[]digestAnswer{done(1), done(2)}, false, compareDifferent, nil},
		{[]digestAnswer{done(1), done(2), refused}, false, compareDifferent, nil},
		{[]digestAnswer{done(1), done(2), none}, true, compareDifferent, nil},
		{[]digestAnswer{done(1), done(1), done(1), done(2), done(3)}, false, compareDifferent, []int{3, 4}},
		{[]digestAnswer{done(1), done(1), refused, done(2), refused}, false, compareDifferent, nil},
		{[]digestAnswer{done(1), done(1), refused}, false, compareIncomplete, nil},
		{[]digestAnswer{done(1), done(1), none}, false, comparePending, nil},
		{[]digestAnswer{done(1), done(1), none}, true, compareIncomplete, nil},
		{[]digestAnswer{done(1), pending, done(1)}, true, comparePending, nil},
		{[]digestAnswer{refused, refused, refused}, true, compareIncomplete, nil},
	} {
		if got, wrong := judge(test.answers, test.late); got != test.want || !slices.Equal(wrong, test.wrong) {
			t.Errorf("%v, late %v: %v %v, want %v %v", test.answers, test.late, got, wrong, test.want, test.wrong)
		}
	}
}
