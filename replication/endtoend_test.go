package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/memnet"
	"github.com/capstan-kv/capstan/replication/raftlog"
	"github.com/capstan-kv/capstan/replication/transport"
	"github.com/capstan-kv/capstan/storage"
)

// wholeNode is a node with the real log and the real transport, over a disk
// and a network in memory.
type wholeNode struct {
	t         testing.TB
	id        partition.NodeID
	disk      vfs.FS
	network   *memnet.Network
	machines  []*mapMachine
	log       *storage.Log
	transport *transport.Transport
	host      *Host
	groups    []*Group
	closers   []func() error
	dead      atomic.Bool  // dials nobody any more
	missed    atomic.Int64 // LeaderMissed events
}

// asPeers is the transport as a host wants it.
type asPeers struct{ *transport.Transport }

func (p asPeers) Handle(kind uint8, fn func(context.Context, partition.NodeID, []byte) ([]byte, error)) {
	p.Transport.Handle(kind, fn)
}

// asStager stages snapshots in the snapshot store.
type asStager struct{ *raftlog.Snapshots }

func (s asStager) Stage(_ context.Context, r io.Reader) ([]byte, func(), error) {
	ticket, err := s.Snapshots.Stage(r)
	return ticket, func() { s.Drop(ticket) }, err
}

func startWhole(t testing.TB, network *memnet.Network, disk vfs.FS, id partition.NodeID, members []Member, groups int, first ...partition.NodeID) *wholeNode {
	t.Helper()
	n := &wholeNode{t: t, id: id, disk: disk, network: network}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	n.log, err = storage.OpenLog(storage.LogOptions{FS: disk, Dir: "log", NodeID: id})
	check(err)
	at := network.Host(string(id))
	listener, err := at.Listen(":7821")
	check(err)
	n.transport, err = transport.New(transport.Config{
		Self: id, Start: func() (number, incarnation uint64) { return 1, 1 }, Listener: listener,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			if n.dead.Load() {
				return nil, errors.New("dead")
			}
			return at.Dial(ctx, addr)
		},
		Resolve: func(p partition.NodeID) (string, bool) { return string(p) + ":7821", true },
	})
	check(err)
	n.host, err = NewHost(HostConfig{Self: id, Peers: asPeers{n.transport}, Events: func(e Event) {
		if _, ok := e.(LeaderMissed); ok {
			n.missed.Add(1)
		}
	}})
	check(err)
	for i := range groups {
		r := storage.Replica{Group: storage.GroupID(i + 1), Generation: 1}
		rl, err := n.log.Replica(r)
		check(err)
		store, err := raftlog.Open(rl)
		check(err)
		machine := newMapMachine()
		snapshots := store.Snapshots(raftlog.Machine{
			View:  func() (raftlog.View, error) { return machine.View() },
			Stage: func() (raftlog.Stage, error) { return machine.Stage() },
		})
		tr := n.transport.Group(r)
		tr.SetStager(asStager{snapshots})
		g, err := n.host.Open(GroupConfig{
			Replica: r, Store: store, Snapshots: snapshots, Transport: tr, Machine: machine,
			Bootstrap: members, Campaign: len(first) == 0 && members[i%len(members)].Node == id || slices.Contains(first, id), Stalled: store.Stalled,
		})
		check(err)
		n.machines = append(n.machines, machine)
		n.groups = append(n.groups, g)
		n.closers = append(n.closers, snapshots.Close, store.Close)
	}
	return n
}

func (n *wholeNode) close() {
	n.t.Helper()
	closers := append([]func() error{n.host.Close, n.transport.Close}, n.closers...)
	for _, c := range append(closers, n.log.Close) {
		if err := c(); err != nil {
			n.t.Errorf("closing %s: %v", n.id, err)
		}
	}
}

func TestEndToEnd(t *testing.T) {
	const groups = 4
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond})
		var members []Member
		for i := range 3 {
			members = append(members, Member{Node: nodeName(i), Generation: 1})
		}
		var nodes []*wholeNode
		for i := range 3 {
			nodes = append(nodes, startWhole(t, network, vfs.NewMem(), nodeName(i), members, groups))
		}
		defer func() {
			for _, n := range nodes {
				n.close()
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		// put writes at whichever node leads, and read reads at one node.
		put := func(group int, k, v string) {
			t.Helper()
			for range 1000 {
				for _, n := range nodes {
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					_, err := n.groups[group].Propose(ctx, []byte(k+"="+v))
					cancel()
					if err == nil {
						return
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Fatal("never written")
		}
		read := func(n *wholeNode, group int, k string) string {
			t.Helper()
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			index, err := n.groups[group].ReadIndex(ctx)
			if err == nil {
				err = n.groups[group].WaitApplied(ctx, index)
			}
			if err != nil {
				t.Fatalf("read at %s: %v (%+v)", n.id, err, n.groups[group].Status())
			}
			return n.machines[group].get(k)
		}
		var wg sync.WaitGroup
		for g := range groups {
			wg.Go(func() {
				for i := range 20 {
					put(g, fmt.Sprint("k", i), "1")
				}
			})
		}
		wg.Wait()
		for _, n := range nodes {
			for g := range groups {
				if got := read(n, g, "k7"); got != "1" {
					t.Errorf("%s, group %d: k7=%q", n.id, g, got)
				}
			}
		}
		// The preferred leaders were spread, and lead.
		for g := range groups {
			if l, _ := nodes[0].groups[g].Leader(); l != members[g%3] {
				t.Errorf("group %d is led by %v", g, l)
			}
		}
		network.Isolate("n0")
		time.Sleep(10 * time.Second)
		nodes = append(nodes[1:], nodes[0])
		for g := range groups {
			put(g, "k7", "2")
		}
		network.Heal()
		time.Sleep(5 * time.Second)
		for g := range groups {
			for _, n := range nodes {
				if got := n.machines[g].get("k7"); got != "2" {
					t.Errorf("%s, group %d, after the heal and without a read: k7=%q", n.id, g, got)
				}
			}
		}
		// One node restarts from its disk, with nothing applied.
		last := nodes[2]
		last.close()
		nodes[2] = startWhole(t, network, last.disk, last.id, members, groups)
		for g := range groups {
			if got := read(nodes[2], g, "k7"); got != "2" {
				t.Errorf("after the restart, group %d: k7=%q", g, got)
			}
		}
	})
}

// A follower that was away under load is not left behind when it is back: the
// library's growing pauses and its pipeline mode would do that.
func TestOutageUnderLoad(t *testing.T) {
	for _, outage := range []time.Duration{5 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			network := memnet.New()
			network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond})
			var members []Member
			for i := range 3 {
				members = append(members, Member{Node: nodeName(i), Generation: 1})
			}
			var nodes []*wholeNode
			for i := range 3 {
				nodes = append(nodes, startWhole(t, network, vfs.NewMem(), nodeName(i), members, 1))
			}
			defer func() {
				for _, n := range nodes {
					n.close()
				}
			}()
			time.Sleep(3 * time.Second)
			network.Isolate("n2")
			last := ""
			for start := time.Now(); time.Since(start) < outage; time.Sleep(10 * time.Millisecond) {
				last = fmt.Sprint(time.Since(start))
				if _, err := nodes[0].groups[0].Propose(t.Context(), []byte("k="+last)); err != nil {
					t.Fatal(err)
				}
			}
			network.Heal()
			time.Sleep(3 * time.Second)
			if got := nodes[2].machines[0].get("k"); got != last {
				t.Errorf("three seconds after an outage of %v: k=%s, want %s", outage, got, last)
			}
		})
	}
}
