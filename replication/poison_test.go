package replication

import (
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/logcheck"
	"github.com/capstan-kv/capstan/storage"
)

// An entry that the library would not survive, in a log on disk, fails the
// replica whose log it is, each time, and nobody else.
func TestAPoisonedLogFailsItsReplicaOnly(t *testing.T) {
	for name, poison := range map[string]raft.Log{
		"unknown type":            {Type: 200, Data: []byte("x")},
		"a barrier":               {Type: raft.LogBarrier},
		"a junk configuration":    {Type: raft.LogConfiguration, Data: []byte("junk")},
		"peers in the old format": {Type: raft.LogAddPeerDeprecated, Data: []byte("junk")},
		"a term out of bounds":    {Type: raft.LogNoop, Term: math.MaxUint64},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3)
				defer c.close()
				c.leader().mustPut("k", "v")
				n := c.nodes[2]
				n.close()
				last, err := n.store.LastIndex()
				if err != nil {
					t.Fatal(err)
				}
				e := poison
				e.Index = last + 1
				if e.Term == 0 {
					e.Term = 1
				}
				if err := n.store.StoreLog(&e); err != nil {
					t.Fatal(err)
				}
				n.peers = c.fabric.join(n.id)
				if n.host, err = NewHost(HostConfig{Self: n.id, Peers: n.peers}); err != nil {
					t.Fatal(err)
				}
				for range 2 { // again and again
					_, err := n.host.Open(GroupConfig{
						Replica: storage.Replica{Group: testGroup, Generation: n.gen},
						Store:   n.store, Snapshots: n.snapshots, Transport: n.peers.transport(n.member()), Machine: n.machine,
					})
					if !errors.Is(err, ErrPoisoned) || !strings.Contains(err.Error(), "entry") {
						t.Fatalf("opening: %v", err)
					}
				}
				// Another group on the same host works.
				m := Member{Node: n.id, Generation: 1}
				store := raft.NewInmemStore()
				other, err := n.host.Open(GroupConfig{
					Replica: storage.Replica{Group: testGroup + 1, Generation: 1}, Store: store, Snapshots: raft.NewInmemSnapshotStore(),
					Transport: n.peers.transport(Member{Node: n.id, Generation: 7}), Machine: newMapMachine(), Bootstrap: []Member{m},
				})
				if err != nil {
					t.Fatal(err)
				}
				c.eventually("the other group serves", other.Leads)
				c.nodes[0].mustPut("k", "w")
			})
		})
	}
}

func TestContentCheck(t *testing.T) {
	check := contentCheck(newMapMachine())
	for name, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"no-op":           {encodeNoop(newNonce()), true},
		"batch":           {encodeBatch([][]byte{[]byte("a=1"), []byte("b=2")}), true},
		"cut short":       {encodeBatch([][]byte{[]byte("a=1"), []byte("b=2")})[:8], false},
		"bytes behind it": {append(encodeBatch([][]byte{[]byte("a=1")}), 0), false},
		"a short no-op":   {[]byte{frameNoop, 1}, false},
		"unknown format":  {[]byte{77, 1, 2, 3}, false},
		"empty":           {nil, false},
	} {
		if err := check(c.data); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	picky := contentCheck(pickyMachine{newMapMachine()})
	if err := picky(encodeBatch([][]byte{[]byte("a=1"), []byte("boom")})); err == nil {
		t.Error("a command that the machine cannot apply is taken")
	}
}

type pickyMachine struct{ *mapMachine }

func (pickyMachine) Check(c []byte) error {
	if string(c) == "boom" {
		return errors.New("boom")
	}
	return nil
}

// A commit notice cannot raise the term beyond what elections reach.
func TestANoticeOfANonsenseTermIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		leader.mustPut("k", "v")
		c.caughtUp()
		f := c.others(leader)[0]
		for _, term := range []uint64{math.MaxUint64, logcheck.MaxTerm + 1, f.group.raft.CurrentTerm() + logcheck.MaxTermStep + 1} {
			n := notice{index: f.group.raft.LastIndex() + 1, term: 1, leaderTerm: term}
			payload := encodeNotices([]addressed{{to: f.group.replica, from: 1, notice: n}})
			if _, err := f.host.handleNotice(t.Context(), leader.id, payload); err != nil {
				t.Fatal(err)
			}
		}
		leader.mustPut("k", "w") // the entry that they name
		time.Sleep(10 * time.Second)
		if term := f.group.raft.CurrentTerm(); term > 100 {
			t.Errorf("the follower is at term %d", term)
		}
		f.mustGet("k", "w")
	})
}
