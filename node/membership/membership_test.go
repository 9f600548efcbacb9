package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/memnet"
)

// lab is a network of hosts 10.0.0.1, 10.0.0.2 and so on in a bubble of virtual time.
type lab struct {
	t       *testing.T
	network *memnet.Network
	open    []*Membership
}

func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, network: memnet.New()}
		f(t, l)
		for _, m := range l.open {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		// serf's own goroutines end when their timers next fire; one that does not
		// would end the bubble with a panic.
		time.Sleep(2 * time.Minute)
	})
}

func addr(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

func (l *lab) node(i int, join []string, change func(*Config)) *Membership {
	l.t.Helper()
	host := l.network.Host(addr(i))
	c := Config{
		NodeID: partition.NodeID(fmt.Sprintf("n%d-aaaa", i)), Name: fmt.Sprintf("n%d", i), Cluster: "capstan",
		APIAddr: addr(i) + ":7820", PeerAddr: addr(i) + ":7821", Zone: "a", Version: "1.0", Expect: 3,
		Network: host, Bind: addr(i) + ":7822", Join: join,
		Resolve: func(_ context.Context, name string) ([]net.IP, error) { return nil, errors.New("no such host " + name) },
	}
	if change != nil {
		change(&c)
	}
	m, err := Open(c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.open = append(l.open, m)
	return m
}

// within waits until the condition holds and says after how long.
func (l *lab) within(bound time.Duration, what string, condition func() bool) time.Duration {
	l.t.Helper()
	start := time.Now()
	for !condition() {
		if time.Since(start) > bound {
			for _, m := range l.open {
				l.t.Logf("%s sees %v", m.config.NodeID, seen(m))
			}
			l.t.Fatalf("not within %v: %s", bound, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(start)
}

func seen(m *Membership) string {
	var all []string
	for _, member := range m.Members() {
		all = append(all, member.Name+":"+member.Status.String())
	}
	return strings.Join(all, " ")
}

func sees(m *Membership, want string) func() bool { return func() bool { return seen(m) == want } }

const allAlive = "n1:alive n2:alive n3:alive"

func (l *lab) three() (n1, n2, n3 *Membership) {
	join := []string{addr(1), addr(2) + ":7822", addr(3)}
	n1, n2, n3 = l.node(1, join, nil), l.node(2, join, nil), l.node(3, join, nil)
	for _, m := range l.open {
		l.within(3*time.Second, "three find each other", sees(m, allAlive))
	}
	return n1, n2, n3
}

func TestThreeFindEachOtherAndTellWhoTheyAre(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, _, n3 := l.three()
		want := Member{
			ID: "n3-aaaa", Name: "n3", APIAddr: "10.0.0.3:7820", PeerAddr: "10.0.0.3:7821",
			GossipAddr: "10.0.0.3:7822", Zone: "a", Version: "1.0", Expect: 3,
		}
		if got := n1.Members()[2]; got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		select {
		case <-n1.Settled():
		default:
			t.Fatal("not settled")
		}
		drained := false
		for !drained {
			select {
			case <-n1.Changes():
			default:
				drained = true
			}
		}
		if err := n3.SetClusterID("c-1"); err != nil {
			t.Fatal(err)
		}
		l.within(3*time.Second, "the cluster id travels", func() bool {
			m := n1.Members()[2]
			return m.Initialised && m.ClusterID == "c-1"
		})
		select {
		case <-n1.Changes():
		default:
			t.Fatal("nobody was told of the change")
		}
	})
}

func TestAMemberThatDiesHasFailedAndComesBack(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		l.network.Isolate(addr(3))
		took := l.within(12*time.Second, "n1 gives n3 up", sees(n1, "n1:alive n2:alive n3:failed"))
		t.Logf("declared after %v", took)
		if err := n3.Close(); err != nil {
			t.Fatal(err)
		}
		l.network.Heal()
		again := l.node(3, []string{addr(1)}, nil)
		for _, m := range []*Membership{n1, n2, again} {
			l.within(5*time.Second, "n3 is back", sees(m, allAlive))
		}
	})
}

func TestOneThatLeavesIsNotFailedAndMayReturnElsewhere(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		if err := n3.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.within(3*time.Second, "n3 has left", sees(n1, "n1:alive n2:alive n3:left"))
		if err := n3.Close(); err != nil {
			t.Fatal(err)
		}
		if err := n3.Leave(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
		again := l.node(3, []string{addr(1)}, func(c *Config) {
			c.Network, c.Bind = l.network.Host(addr(33)), addr(33)+":7822"
		})
		for _, m := range []*Membership{n1, n2, again} {
			l.within(15*time.Second, "n3 is back", sees(m, allAlive))
		}
	})
}

// A node is killed while it leaves: the others have heard that it goes, and not that
// it is gone. It is back before they miss it.
func TestOneThatIsKilledAsItLeavesMayReturn(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		go func() { _ = n3.Leave(context.Background()) }()
		for _, m := range []*Membership{n1, n2} {
			l.within(time.Second, "n3 leaves", sees(m, "n1:alive n2:alive n3:left"))
		}
		l.network.Crash(addr(3))
		again := l.node(3, []string{addr(1), addr(2)}, nil)
		for _, m := range []*Membership{n1, n2, again} {
			l.within(15*time.Second, "n3 is back", sees(m, allAlive))
		}
	})
}

func TestOneThatFailsMayReturnElsewhere(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		if err := n3.Close(); err != nil {
			t.Fatal(err)
		}
		again := l.node(3, []string{addr(1), addr(2)}, func(c *Config) {
			c.Network, c.Bind = l.network.Host(addr(33)), addr(33)+":7822"
		})
		for _, m := range []*Membership{n1, n2, again} {
			l.within(40*time.Second, "n3 is back", func() bool {
				return seen(m) == allAlive && m.Members()[2].GossipAddr == addr(33)+":7822"
			})
		}
	})
}

func TestAJoinListOfOnlyOneselfSettles(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1 := l.node(1, []string{addr(1)}, nil)
		l.within(time.Second, "settled", func() bool {
			select {
			case <-n1.Settled():
				return true
			default:
				return false
			}
		})
		l.node(2, []string{addr(1)}, nil)
		l.within(3*time.Second, "n2 joins", sees(n1, "n1:alive n2:alive"))
	})
}

func TestANameThatResolvesLaterIsFoundLater(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1 := l.node(1, nil, nil)
		known := time.Now().Add(time.Minute)
		var mu sync.Mutex
		failures := 0
		n2 := l.node(2, []string{"seed.example:7822", addr(9)}, func(c *Config) {
			c.Resolve = func(_ context.Context, host string) ([]net.IP, error) {
				if host != "seed.example" || time.Now().Before(known) {
					return nil, errors.New("no such host")
				}
				return []net.IP{net.ParseIP(addr(1))}, nil
			}
			c.Events = func(e Event) {
				if _, ok := e.(JoinFailed); ok {
					mu.Lock()
					defer mu.Unlock()
					failures++
				}
			}
		})
		time.Sleep(59 * time.Second)
		if got := seen(n2); got != "n2:alive" {
			t.Fatal(got)
		}
		l.within(20*time.Second, "the name resolves", sees(n1, "n1:alive n2:alive"))
		l.within(time.Second, "n2 sees it too", sees(n2, "n1:alive n2:alive"))
		mu.Lock()
		defer mu.Unlock()
		if failures < 5 || failures > 60 {
			t.Fatalf("%d failures told of in about a minute", failures)
		}
	})
}

func TestAnotherLabelIsNotHeard(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1 := l.node(1, []string{addr(2)}, nil)
		n2 := l.node(2, []string{addr(1)}, func(c *Config) { c.Cluster = "other" })
		time.Sleep(time.Minute)
		if a, b := seen(n1), seen(n2); a != "n1:alive" || b != "n2:alive" {
			t.Fatal(a, "and", b)
		}
	})
}

func TestAnotherClusterIsRefused(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		var mu sync.Mutex
		var refused []Refused
		a := l.node(1, nil, func(c *Config) {
			c.ClusterID = "c-a"
			c.Events = func(e Event) {
				if r, ok := e.(Refused); ok {
					mu.Lock()
					defer mu.Unlock()
					refused = append(refused, r)
				}
			}
		})
		b := l.node(2, []string{addr(1)}, func(c *Config) { c.ClusterID = "c-b" })
		// One without a cluster sees both, and does not bring them together.
		none := l.node(3, []string{addr(1), addr(2)}, nil)
		time.Sleep(2 * time.Minute)
		if got := seen(a); got != "n1:alive n3:alive" {
			t.Errorf("a sees %s", got)
		}
		if got := seen(b); got != "n2:alive n3:alive" {
			t.Errorf("b sees %s", got)
		}
		if got := seen(none); got != allAlive {
			t.Errorf("the new node sees %s", got)
		}
		mu.Lock()
		if len(refused) != 1 || refused[0] != (Refused{"n2-aaaa", "c-b"}) {
			t.Errorf("refusals told of: %v", refused)
		}
		mu.Unlock()
		// Once it belongs to one, the other is gone for it.
		if err := none.SetClusterID("c-a"); err != nil {
			t.Fatal(err)
		}
		if got := seen(none); got != "n1:alive n3:alive" {
			t.Errorf("after joining it sees %s", got)
		}
	})
}

func TestHalvesFindEachOtherAfterALongCut(t *testing.T) {
	for name, forget := range map[string]time.Duration{"remembered": forgetAfter, "forgotten": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(t *testing.T, l *lab) {
				// Only n3 knows an address of the others.
				short := func(c *Config) { c.forget = forget }
				n1, n2 := l.node(1, nil, short), l.node(2, []string{addr(1)}, short)
				n3 := l.node(3, []string{addr(1)}, short)
				for _, m := range l.open {
					l.within(3*time.Second, "start", sees(m, allAlive))
				}
				l.network.Isolate(addr(3))
				time.Sleep(15 * time.Minute)
				want := "n1:failed n2:failed n3:alive"
				if forget < forgetAfter {
					want = "n3:alive"
				}
				if got := seen(n3); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
				l.network.Heal()
				for _, m := range []*Membership{n1, n2, n3} {
					l.within(20*time.Second, "they find each other", sees(m, allAlive))
				}
			})
		})
	}
}

func TestClosingInTheMiddleOfEverything(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		l.network.Isolate(addr(1)) // its streams and dials hang
		time.Sleep(1500 * time.Millisecond)
		var closing sync.WaitGroup
		for _, m := range []*Membership{n1, n2, n3} {
			closing.Go(func() { _ = m.SetClusterID("c-1") })
			closing.Go(func() { _ = m.Leave(t.Context()) })
			for range 2 {
				closing.Go(func() {
					if err := m.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		closing.Wait()
		if err := n1.SetClusterID("c-2"); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	})
}

// Two that gave each other up, long after the cut, find each other at once when
// told to look, and not for some time if not.
func TestRejoin(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		n1, n2, n3 := l.three()
		for round := range 3 {
			l.network.Isolate(addr(3))
			l.within(time.Minute, "n1 and n2 give n3 up", func() bool {
				return seen(n1) == "n1:alive n2:alive n3:failed" && seen(n2) == seen(n1) && seen(n3) == "n1:failed n2:failed n3:alive"
			})
			time.Sleep(10 * time.Second)
			l.network.Heal()
			n1.Rejoin([]string{addr(2) + ":7822", addr(3) + ":7822"})
			took := l.within(time.Second, "all see each other", func() bool {
				return seen(n1) == allAlive && seen(n2) == allAlive && seen(n3) == allAlive
			})
			t.Logf("round %d: %v", round, took)
		}
		if err := n1.Close(); err != nil {
			t.Fatal(err)
		}
		n1.Rejoin([]string{addr(3) + ":7822"}) // nothing left to do it
	})
}
