package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// noise cannot be compressed, so that it is found in the tables as it is. Each key
// has its own.
func noise(key string) string {
	b := make([]byte, 700)
	random := mathrand.NewChaCha8(sha256.Sum256([]byte(key)))
	_, _ = random.Read(b)
	return string(b)
}

// noisyKeys are enough for several blocks of a table. The first block is read, and
// cached, when the node starts; inMiddle is not in it.
const (
	noisyKeys = 100
	inMiddle  = noisyKeys / 2
)

// noisy writes noise to many keys of the partition, which it gives in order.
func (m *machine) noisy(p partition.ID) (keys []string) {
	for i := range noisyKeys {
		keys = append(keys, keyIn(p, 4, i))
	}
	slices.Sort(keys)
	for _, key := range keys {
		m.mustPut(key, noise(key))
	}
	return keys
}

// reopen stops the node and starts it, which writes what was in memory to tables.
func (m *machine) reopen() {
	m.world.t.Helper()
	m.stop()
	m.start()
}

// flipState changes one byte wherever the machine's state database has stored the
// value in a table.
func (m *machine) flipState(value string) {
	m.world.t.Helper()
	const dir = "data/state"
	names, err := m.disk.List(dir)
	if err != nil {
		m.world.t.Fatal(err)
	}
	flipped := 0
	for _, name := range names {
		if path.Ext(name) != ".sst" {
			continue
		}
		f, err := m.disk.OpenReadWrite(path.Join(dir, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			m.world.t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil {
			m.world.t.Fatal(err)
		}
		if at := bytes.Index(content, []byte(value)); at >= 0 {
			flipped++
			if _, err := f.WriteAt([]byte{content[at] ^ 0x5a}, int64(at)); err != nil {
				m.world.t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			m.world.t.Fatal(err)
		}
	}
	if flipped == 0 {
		m.world.t.Fatalf("the value is in no table of %s", m.name)
	}
}

// inHurtCluster is a cluster of three that need not be whole in the end.
func inHurtCluster(t *testing.T, test func(w *world), options ...func(*Config)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 1, options...).formed()
		defer w.close()
		test(w)
	})
}

func (m *machine) awaitQuarantined(p partition.ID) outage {
	m.world.t.Helper()
	m.world.eventually(time.Minute, fmt.Sprintf("partition %d is quarantined at %s", p, m.name), func() error {
		if !m.running().replicas.quarantined(p) {
			return errors.New("it is not")
		}
		return nil
	})
	return *m.running().replicas.lost(p)
}

// A byte of a state table changes under a running node. Whatever read meets it first
// is answered by another replica within the same request; then the replica is out of
// service, and stays so after a restart, while all others of the node serve.
func TestDamagedReplicaIsQuarantined(t *testing.T) {
	const p = partition.ID(0)
	reads := map[string]func(m *machine, keys []string){
		"linearizable get": func(m *machine, keys []string) { m.mustRead(ask{}, keys[inMiddle], noise(keys[inMiddle])) },
		"bounded get": func(m *machine, keys []string) {
			m.mustRead(ask{level: bounded, within: time.Minute}, keys[inMiddle], noise(keys[inMiddle]))
		},
		"eventual get": func(m *machine, keys []string) {
			m.mustRead(ask{level: eventual}, keys[inMiddle], noise(keys[inMiddle]))
		},
		"get of all": func(m *machine, keys []string) {
			m.mustRead(ask{level: eventual, replicas: 3}, keys[inMiddle], noise(keys[inMiddle]))
		},
		"linearizable scan": func(m *machine, keys []string) {
			if got, _, err := m.scanAt(ask{}, ""); err != nil || len(got) != len(keys) {
				m.world.t.Errorf("scan: %d keys, %v", len(got), err)
			}
		},
		"eventual scan": func(m *machine, keys []string) {
			if got, _, err := m.scanAt(ask{level: eventual}, ""); err != nil || len(got) != len(keys) {
				m.world.t.Errorf("scan: %d keys, %v", len(got), err)
			}
		},
		"eventual write": func(m *machine, keys []string) {
			r := m.mustWrite(ask{level: eventual}, keys[inMiddle], noise(keys[inMiddle]))
			m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		},
		"conditional write": func(m *machine, keys []string) { // met by apply, at all replicas; it may be the leader's
			w := m.world
			w.eventually(time.Minute, "the write is refused by its condition", func() error {
				_, err := m.write(ask{absent: true}, keys[inMiddle], "x")
				var e *replication.Error
				if errors.As(err, &e) && e.Reason == replication.ConditionFailed {
					return nil
				}
				if e == nil || e.Reason != replication.LeaderChanged && e.Reason != replication.NoReplica {
					w.t.Errorf("the write ended with %v", err)
				}
				return err
			})
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			inHurtCluster(t, func(w *world) {
				n3 := w.machines[2]
				keys := n3.noisy(p)
				other := keyIn(1, 4, 0)
				n3.mustPut(other, "fine")
				keys = append(keys, other)
				n3.reopen()
				w.awaitReady(n3)
				n3.flipState(noise(keys[inMiddle]))
				read(n3, keys)
				why := n3.awaitQuarantined(p)
				if !strings.Contains(why.Reason, "damaged") || !strings.Contains(why.Reason, ".sst") {
					t.Errorf("the reason is %q", why.Reason)
				}
				w.shutOut(n3, p, keys)
				n3.reopen()
				if again := n3.awaitQuarantined(p); !again.Since.Equal(why.Since) || again.Reason != why.Reason {
					t.Errorf("after a restart %+v, before it %+v", again, why)
				}
				w.shutOut(n3, p, keys)
			})
		})
	}
}

// shutOut checks what a cluster looks like in which the replica of p at m, and it
// alone, is quarantined.
func (w *world) shutOut(m *machine, p partition.ID, keys []string) {
	w.t.Helper()
	w.awaitReady(w.others(m)...)
	w.eventually(time.Minute, "all other replicas of "+m.name+" have a leader", func() error {
		for q := range partition.ID(4) {
			if q == p {
				continue
			}
			if here := m.running().replicas.replica(q); here == nil || here.failed() || here.leader() == "" {
				return fmt.Errorf("partition %d has not", q)
			}
		}
		return nil
	})
	err := health{m.running().Node}.Ready(context.Background(), capstanv1.Consistency_CONSISTENCY_UNSPECIFIED)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("partitions %d (quarantined: ", p)) {
		w.t.Errorf("readiness: %v", err)
	}
	if m.running().replicas.replica(p) != nil {
		w.t.Error("the replica is open")
	}
	if lost := m.running().replicas.allLost(); len(lost) != 1 || lost[0].Partition != p {
		w.t.Errorf("out of service: %+v", lost)
	}
	w.eventually(time.Minute, "status names the replica", func() error { // another node has to reach it for that
		status, err := clusterService{w.others(m)[0].running().Node}.GetStatus(context.Background(), nil)
		for _, part := range status.GetPartitions() {
			for _, r := range part.GetReplicas() {
				if out := r.GetOutage(); (out != nil) != (part.GetId() == uint32(p) && r.GetNode() == m.name) || out != nil && (!out.GetQuarantined() || out.GetRemedy() == "") {
					err = fmt.Errorf("partition %d at %s: %v", part.GetId(), r.GetNode(), out)
				}
			}
		}
		return err
	})
	for _, key := range keys {
		want := w.others(m)[0].mustHave(key)
		m.mustRead(ask{}, key, want)
		m.mustRead(ask{level: eventual}, key, want)
	}
	for _, level := range []capstanv1.Consistency{linearizable, eventual} {
		if got, _, err := m.scanAt(ask{level: level}, ""); err != nil || len(got) < len(keys) {
			w.t.Errorf("scan: %d of %d keys, %v", len(got), len(keys), err)
		}
	}
	talk := &talk{}
	m.mustWrite(ask{talk: talk}, keys[1], "by "+m.name)
	m.mustRead(ask{talk: talk, level: eventual}, keys[1], "by "+m.name)
	r := m.mustWrite(ask{talk: talk, level: eventual}, keys[1], noise(keys[1]))
	m.mustRead(ask{talk: talk, level: eventual}, keys[1], noise(keys[1]))
	m.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
	m.mustRead(ask{talk: talk}, keys[1], noise(keys[1]))
}

// mustHave is the value of a key.
func (m *machine) mustHave(key string) string {
	m.world.t.Helper()
	value, _, err := m.get(key)
	if err != nil {
		m.world.t.Fatal(err)
	}
	return value
}

// The leader's state is damaged: another replica leads soon, and no request fails
// beyond the election.
func TestDamagedLeaderHandsOver(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		n3 := w.machines[2]
		keys := n3.noisy(p)
		n3.reopen()
		w.awaitReady(n3)
		if err := w.lead(p, n3); err != nil {
			t.Fatal(err)
		}
		n3.flipState(noise(keys[inMiddle]))
		n3.mustRead(ask{}, keys[inMiddle], noise(keys[inMiddle]))
		began := time.Now()
		w.machines[0].mustPut(keys[0], "after")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the first write at another node took %v", took)
		}
		n3.awaitQuarantined(p)
		if leader := w.leaderOf(p); leader == n3 {
			t.Error("it still leads")
		}
		n3.mustRead(ask{}, keys[0], "after")
	})
}

// lead has m lead the partition.
func (w *world) lead(p partition.ID, m *machine) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := m.running().transferLeader(ctx, partition.Transfer{Partition: p, To: m.running().id})
		if w.leaderOf(p) == m {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A node whose replica is gone for good keeps what it had accepted alone, hands it in,
// and tells its fate truthfully.
func TestQuarantinedNodeHandsInWhatItHolds(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		n3 := w.machines[2]
		keys := n3.noisy(p)
		n3.reopen()
		w.awaitReady(n3)
		w.cut(n3)
		w.awaitApart(p, n3)
		alone := n3.mustWrite(ask{level: eventual}, keys[5], "alone")
		n3.flipState(noise(keys[inMiddle]))
		if _, err := n3.read(ask{level: eventual}, keys[inMiddle]); err == nil {
			t.Error("a value was read that is nowhere within reach")
		} else {
			w.refusal(err, replication.NoReplica, replication.NotApplied)
		}
		n3.awaitQuarantined(p)
		n3.mustRead(ask{level: eventual}, keys[5], "alone") // its own write answers
		second := n3.mustWrite(ask{level: eventual}, keys[6], "as a hint")
		n3.mustRead(ask{level: eventual}, keys[6], "as a hint")
		for _, r := range []*capstanv1.PutResponse{alone, second} {
			if got, err := n3.await(r.GetReceipt(), 0); err != nil || got.GetFate() != capstanv1.Fate_FATE_PENDING {
				t.Errorf("before the heal its fate is %v, %v", got.GetFate(), err)
			}
		}
		n3.reopen()  // and what it holds outlives a restart
		w.net.Heal() // its start is registered only now
		n3.awaitQuarantined(p)
		for _, r := range []*capstanv1.PutResponse{alone, second} {
			n3.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		}
		w.machines[0].mustRead(ask{}, keys[5], "alone")
		w.machines[0].mustRead(ask{}, keys[6], "as a hint")
		w.awaitNoBacklog()
		w.refusalFree(n3, keys)
	})
}

// refusalFree reads keys at every level.
func (w *world) refusalFree(m *machine, keys []string) {
	w.t.Helper()
	for _, key := range keys {
		want := w.others(m)[0].mustHave(key)
		m.mustRead(ask{}, key, want)
		m.mustRead(ask{level: eventual}, key, want)
	}
}

// What a node's replica has decided is durable there, and gone from its tentative log;
// then the replica is lost. What the node reads elsewhere must not be older.
func TestQuarantineKeepsWhatWasShown(t *testing.T) {
	g := &gates{}
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		n3 := w.machines[2]
		keys := n3.noisy(p)
		n3.reopen()
		w.awaitReady(n3)
		leader := w.leaderOf(p)
		if leader == n3 {
			leader = w.machines[0]
			if err := w.lead(p, leader); err != nil {
				t.Fatal(err)
			}
		}
		behind := w.others(n3, leader)[0]
		open := g.shut(behind, p)
		defer open()
		r := n3.mustWrite(ask{level: eventual}, keys[5], "shown")
		n3.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
		time.Sleep(3 * settleEvery)
		n3.mustRead(ask{level: eventual}, keys[5], "shown")
		n3.flipState(noise(keys[inMiddle]))
		n3.mustRead(ask{level: eventual}, keys[inMiddle], noise(keys[inMiddle]))
		n3.awaitQuarantined(p)
		for range 20 {
			n3.mustRead(ask{level: eventual}, keys[5], "shown")
		}
		open()
	}, g.guard)
}

// A state that was damaged while the node was down is found at its start, or by the
// first read: the node starts in any case, and everything else on it goes on.
func TestDamageAtOpen(t *testing.T) {
	for name, hurt := range map[string]func(m *machine){
		"a ledger that cannot be decoded": func(m *machine) { m.spoil(partition.ID(0), []byte{0x02}, []byte("no head of a ledger")) },
		"an applied index that cannot be": func(m *machine) { m.spoil(partition.ID(0), []byte{0x01}, []byte("no position")) },
	} {
		t.Run(name, func(t *testing.T) {
			inHurtCluster(t, func(w *world) {
				const p = partition.ID(0)
				n3 := w.machines[2]
				keys := n3.noisy(p)
				r := n3.mustWrite(ask{level: eventual}, keys[3], "decided")
				n3.mustBecome(r.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				w.cut(n3)
				w.awaitApart(p, n3)
				alone := n3.mustWrite(ask{level: eventual}, keys[5], "alone")
				n3.stop()
				hurt(n3)
				w.heal()
				n3.start()
				n3.awaitQuarantined(p)
				n3.mustBecome(alone.GetReceipt(), capstanv1.Fate_FATE_COMMITTED)
				w.awaitNoBacklog()
				w.shutOut(n3, p, keys)
			})
		})
	}
}

// A state older than what the log was cut behind was put back, or emptied. Its replica
// is lost; one whose log is whole applies it again.
func TestStateOlderThanItsLogAtOpen(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		n3 := w.machines[2]
		keys := n3.noisy(p)
		other := keyIn(1, 4, 0)
		n3.mustPut(other, "applied again")
		if err := n3.running().replicas.replica(p).group.CutLog(1); err != nil {
			t.Fatal(err)
		}
		n3.stop()
		if err := n3.disk.RemoveAll("data/state"); err != nil {
			t.Fatal(err)
		}
		n3.start()
		if why := n3.awaitQuarantined(p); !strings.Contains(why.Reason, errStateBehindLog.Error()) {
			t.Errorf("the reason is %q", why.Reason)
		}
		n3.mustRead(ask{}, other, "applied again")
		w.shutOut(n3, p, append(keys, other))
	})
}

// A replica that cannot be opened for a reason of its own does not keep the node down,
// and is tried again at the next start.
func TestReplicaThatDoesNotOpen(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		n3 := w.machines[2]
		s := n3.running().replicas
		name := storage.Replica{Group: storage.GroupOf(0), Generation: 1}
		if err := s.notOpened(name, errors.New("for once")); err != nil {
			t.Fatal(err)
		}
		if why := s.lost(0); why == nil || why.Quarantined {
			t.Errorf("%+v", why)
		}
		if record, err := s.opener.quarantined(name); record != nil || err != nil {
			t.Errorf("stored: %+v, %v", record, err)
		}
		for _, all := range []error{storage.ErrLogLost, storage.ErrLogCorrupt, storage.ErrDamaged, storage.ErrBroken} {
			if err := s.notOpened(name, fmt.Errorf("opening: %w", all)); !errors.Is(err, all) {
				t.Errorf("%v ends the node, but %v", all, err)
			}
		}
	})
}

// A leader is never sought at a replica that is out of service.
func TestLeadersAreNotSentToLostReplicas(t *testing.T) {
	inHurtCluster(t, func(w *world) {
		const p = partition.ID(0)
		// The node that is preferred as leader of p loses its replica.
		first := w.machineOf(w.machines[0].running().ring().Partitions[p].Replicas[0].Node)
		keys := first.noisy(p)
		first.reopen()
		w.awaitReady(first)
		first.flipState(noise(keys[inMiddle]))
		first.mustRead(ask{level: eventual}, keys[inMiddle], noise(keys[inMiddle]))
		first.awaitQuarantined(p)
		w.leaderOf(p)
		for range 60 { // of the driver's looks at it
			time.Sleep(time.Second)
			for _, m := range w.machines {
				began := time.Now()
				m.mustPut(keys[0], "x")
				if took := time.Since(began); took > time.Second {
					t.Fatalf("a write at %s took %v: its leader was handing over", m.name, took)
				}
			}
		}
	})
}
