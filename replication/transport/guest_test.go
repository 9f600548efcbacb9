package transport

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/memnet"
	"github.com/capstan-kv/capstan/storage"
)

// A node that is no member reaches the handlers for guests, and Raft where that is
// allowed, until it has become a member: on the same connection.
func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		var member, guest atomic.Bool
		control := storage.Replica{Group: 0, Generation: 1}
		a := start(t, network, "a", nil)
		b := start(t, network, "b", func(c *Config) {
			c.Member = func(Hello) bool { return member.Load() }
			c.GuestKinds = []uint8{kindCount}
			c.Guest = func(g storage.GroupID) bool { return g == 0 && guest.Load() }
		})
		call := func(kind uint8) error {
			_, err := a.Call(context.Background(), "b", kind, nil)
			return err
		}
		if err := call(kindCount); err != nil {
			t.Errorf("a call for guests: %v", err)
		}
		if err := call(kindEcho); !errors.Is(err, ErrNoHandler) {
			t.Errorf("another call: %v", err)
		}
		ga, g0 := open(a.Transport, shard), open(a.Transport, control)
		defer serve(open(b.Transport, shard), success)()
		defer serve(open(b.Transport, control), success)()
		for _, g := range []*GroupTransport{ga, g0} {
			for _, request := range []any{append2(3), &raft.AppendEntriesRequest{Term: 3}, &raft.RequestVoteRequest{Term: 3}} {
				if err := send(g, ServerID("b", 1), request); !errors.Is(err, ErrNoReplica) {
					t.Errorf("%T in %v: %v", request, g.replica, err)
				}
			}
		}
		if b.Counted("a", shard) {
			t.Error("a guest's replica counts")
		}
		member.Store(true)
		b.Sever("a")
		synctest.Wait()
		if err := errors.Join(echo(t, a, "b"), send(ga, ServerID("b", 1), append2(3))); err != nil {
			t.Errorf("as a member: %v", err)
		}
		member.Store(false)
		guest.Store(true)
		b.Sever("a")
		synctest.Wait()
		if err := send(g0, ServerID("b", 1), append2(3)); err != nil {
			t.Errorf("a guest in the control group: %v", err)
		}
		if err := send(ga, ServerID("b", 1), append2(3)); !errors.Is(err, ErrNoReplica) {
			t.Errorf("a guest in another group: %v", err)
		}
	})
}

// Whoever is refused hears a verdict and nothing else.
func TestRefusalsSayNothing(t *testing.T) {
	for name, hello := range map[string]Hello{
		"to another node": {From: "probe", To: "nobody"},
		"not admitted":    {From: "probe", To: "secret-node", Cluster: "other"},
		"no name":         {To: "secret-node"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				start(t, network, "b", func(c *Config) {
					c.Self, c.Start = "secret-node", func() (uint64, uint64) { return 88, 77 }
					c.Cluster = func() string { return "secret-cluster" }
					c.Admit = func(Hello) error { return errors.New("secret reason") }
				})
				conn, err := network.Host("probe").Dial(t.Context(), "b:7821")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = conn.Write(greeting{version: protocolVersion, hello: hello}.encode())
				g, err := readGreeting(conn)
				if err != nil {
					return // closed without a word
				}
				if g.hello != (Hello{}) || strings.Contains(g.text, "secret") || g.verdict == accepted {
					t.Errorf("it says %+v", g)
				}
			})
		})
	}
}
