package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/memnet"
)

const (
	kindEcho  = 1
	kindWait  = 2
	kindFail  = 3
	kindCount = 17
)

// node is one end under test.
type node struct {
	*Transport
	mu     sync.Mutex
	events []Event
	calls  atomic.Int64
}

func (n *node) on(e Event) { n.mu.Lock(); n.events = append(n.events, e); n.mu.Unlock() }

func count[E any](n *node, match func(E) bool) (k int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e, ok := e.(E); ok && match(e) {
			k++
		}
	}
	return k
}

func start(t testing.TB, network *memnet.Network, name string, alter func(*Config)) *node {
	t.Helper()
	host := network.Host(name)
	listener, err := host.Listen(":7821")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{}
	cfg := Config{
		Self: partition.NodeID(name), Start: func() (number, incarnation uint64) { return 1, 1 },
		Cluster:  func() string { return "test" },
		Listener: listener, Dial: host.Dial,
		Resolve: func(id partition.NodeID) (string, bool) { return string(id) + ":7821", true },
		Events:  n.on,
	}
	if alter != nil {
		alter(&cfg)
	}
	if n.Transport, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.Handle(kindEcho, func(_ context.Context, from partition.NodeID, p []byte) ([]byte, error) {
		return append([]byte(from+":"), p...), nil
	})
	n.Handle(kindWait, func(ctx context.Context, _ partition.NodeID, _ []byte) ([]byte, error) {
		<-ctx.Done()
		n.calls.Add(1)
		return nil, ctx.Err()
	})
	n.Handle(kindFail, func(context.Context, partition.NodeID, []byte) ([]byte, error) {
		return nil, &RemoteError{Code: 7, Payload: []byte("no")}
	})
	n.Handle(kindCount, func(_ context.Context, _ partition.NodeID, p []byte) ([]byte, error) {
		n.calls.Add(1)
		return p, nil
	})
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func echo(t testing.TB, from *node, to partition.NodeID) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	body, err := from.Call(ctx, to, kindEcho, []byte("hi"))
	if err == nil && string(body) != string(from.cfg.Self)+":hi" {
		t.Fatalf("echo gave %q", body)
	}
	return err
}

func TestCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		if err := errors.Join(echo(t, a, "b"), echo(t, b, "a"), echo(t, a, "a")); err != nil {
			t.Fatal(err)
		}
		if n := a.Metrics()["b"].Connects + b.Metrics()["a"].Connects; n != 2 {
			t.Errorf("%d ends of connections, want the two of one", n)
		}
		var remote *RemoteError
		if _, err := a.Call(t.Context(), "b", kindFail, nil); !errors.As(err, &remote) || remote.Code != 7 || string(remote.Payload) != "no" {
			t.Errorf("handler's error: %v", err)
		}
		if _, err := a.Call(t.Context(), "b", 200, nil); !errors.Is(err, ErrNoHandler) {
			t.Errorf("unknown kind: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }()
		if _, err := a.Call(ctx, "b", kindWait, nil); !errors.Is(err, ErrLost) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled call: %v", err)
		}
		synctest.Wait()
		if b.calls.Load() != 1 {
			t.Error("the cancellation did not reach the handler")
		}
		// A large payload travels in many chunks.
		big := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
		if body, err := a.Call(t.Context(), "b", kindCount, big); err != nil || !bytes.Equal(body, big) {
			t.Errorf("large call: %d bytes, %v", len(body), err)
		}
		if _, err := a.Call(t.Context(), "b", kindCount, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large call: %v", err)
		}
		if err := a.Notify("b", kindCount, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if b.calls.Load() != 3 {
			t.Error("the notification did not arrive")
		}
	})
}

// Readmit ends the connections that Admit refuses now, and those alone.
func TestReadmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		removed := false
		a := start(t, network, "a", nil)
		b := start(t, network, "b", func(c *Config) {
			c.Admit = func(h Hello) error {
				if removed && h.From == "a" {
					return ErrPeerRemoved
				}
				return nil
			}
		})
		c := start(t, network, "c", nil)
		for _, n := range []*node{a, c} {
			if err := echo(t, n, "b"); err != nil {
				t.Fatal(err)
			}
		}
		b.Readmit()
		synctest.Wait()
		if !b.Connected("a") || !b.Connected("c") {
			t.Error("a connection that is still admitted was ended")
		}
		removed = true
		b.Readmit()
		synctest.Wait()
		if b.Connected("a") || a.Connected("b") || !b.Connected("c") {
			t.Error("a refused connection goes on, or another one was ended")
		}
		if err := echo(t, a, "b"); !errors.Is(err, ErrRemoved) {
			t.Errorf("removed: %v", err)
		}
	})
}

func TestHandshakeRefusals(t *testing.T) {
	cluster := func(name string) func(*Config) {
		return func(c *Config) {
			c.Cluster = func() string { return name }
			c.Admit = func(h Hello) error {
				if h.Cluster != name {
					return fmt.Errorf("cluster %s is not %s", h.Cluster, name)
				}
				return nil
			}
		}
	}
	for name, c := range map[string]struct {
		a, b func(*Config)
		want error
	}{
		"foreign cluster":        {cluster("one"), cluster("two"), ErrNotAdmitted},
		"only the dialer judges": {cluster("one"), func(c *Config) { c.Cluster = func() string { return "two" } }, ErrNotAdmitted},
		"removed for ever": {nil, func(c *Config) {
			c.Admit = func(h Hello) error { return fmt.Errorf("%s: %w", h.From, ErrPeerRemoved) }
		}, ErrRemoved},
		"an older copy of its directory": {nil, func(c *Config) {
			c.Admit = func(h Hello) error { return fmt.Errorf("%s: %w", h.From, ErrPeerOutdated) }
		}, ErrOutdated},
		"the dialer's own judgement": {func(c *Config) {
			c.Admit = func(h Hello) error { return fmt.Errorf("%s: %w", h.From, ErrPeerRemoved) }
		}, nil, ErrPeerRemoved},
		"another node at the address": {func(c *Config) {
			c.Resolve = func(partition.NodeID) (string, bool) { return "b:7821", true }
		}, func(c *Config) { c.Self = "c" }, ErrWrongPeer},
		"no address": {func(c *Config) {
			c.Resolve = func(partition.NodeID) (string, bool) { return "", false }
		}, nil, ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", c.a), start(t, network, "b", c.b)
				begin := time.Now()
				err := echo(t, a, "b")
				if !errors.Is(err, c.want) || !errors.Is(err, ErrUnreachable) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if removed := errors.Is(err, ErrRemoved); removed != (c.want == ErrRemoved) {
					t.Errorf("%v: that this node was removed: %v", err, removed)
				}
				if d := time.Since(begin); d > time.Second {
					t.Errorf("it took %v", d)
				}
				synctest.Wait()
				if c.want != ErrUnreachable && count(a, func(e Refused) bool { return errors.Is(e.Err, c.want) }) == 0 {
					t.Error("no event at the dialer")
				}
				if c.want == ErrWrongPeer && count(b, func(e Refused) bool { return e.Incoming }) == 0 {
					t.Error("no event at the listener")
				}
			})
		})
	}
}

func TestOtherVersionIsRefusedOnBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a := start(t, network, "a", nil)
		conn, err := network.Host("b").Dial(t.Context(), "a:7821")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(greeting{version: 9, hello: Hello{From: "b", To: "a"}}.encode())
		g, err := readGreeting(conn)
		if err != nil || g.verdict != refusedVersion {
			t.Fatalf("answer %+v, %v", g, err)
		}
		if !errors.Is(g.refusal(), ErrVersion) {
			t.Error(g.refusal())
		}
		synctest.Wait()
		if count(a, func(e Refused) bool { return e.Incoming && errors.Is(e.Err, ErrVersion) }) != 1 {
			t.Errorf("events: %+v", a.events)
		}
		// The other way round: the listener answers in another version.
		l, _ := network.Host("c").Listen(":7821")
		defer l.Close()
		go func() {
			conn, _ := l.Accept()
			_, _ = readGreeting(conn)
			_, _ = conn.Write(greeting{version: 9, verdict: refusedVersion}.encode())
			_ = conn.Close()
		}()
		if err := echo(t, a, "c"); !errors.Is(err, ErrVersion) {
			t.Errorf("dialing another version: %v", err)
		}
	})
}

func TestSimultaneousDialEndsInOneConnection(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			network := memnet.NewSeeded(seed)
			network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond, Jitter: 3 * time.Millisecond})
			a, b := start(t, network, "a", nil), start(t, network, "b", nil)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := echo(t, a, "b"); err != nil {
					t.Errorf("seed %d: a to b: %v", seed, err)
				}
			})
			wg.Go(func() {
				time.Sleep(time.Duration(seed%7) * time.Millisecond)
				if err := echo(t, b, "a"); err != nil {
					t.Errorf("seed %d: b to a: %v", seed, err)
				}
			})
			wg.Wait()
			time.Sleep(3 * time.Second)
			if ca, cb := a.Metrics()["b"].Connects, b.Metrics()["a"].Connects; ca != 1 || cb != 1 {
				t.Errorf("seed %d: %d and %d connections were made", seed, ca, cb)
			}
			if err := errors.Join(echo(t, a, "b"), echo(t, b, "a")); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

func TestPeerRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a := start(t, network, "a", nil)
		b := start(t, network, "b", nil)
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		pending := make(chan error, 1)
		go func() { _, err := a.Call(t.Context(), "b", kindWait, nil); pending <- err }()
		synctest.Wait()
		network.Crash("b")
		if err := <-pending; !errors.Is(err, ErrLost) {
			t.Errorf("call under way at the crash: %v", err)
		}
		begin := time.Now()
		if err := echo(t, a, "b"); !errors.Is(err, ErrUnreachable) || time.Since(begin) > 0 {
			t.Errorf("call to a dead peer: %v after %v", err, time.Since(begin))
		}
		_ = b.Close()
		start(t, network, "b", func(c *Config) { c.Start = func() (number, incarnation uint64) { return 1, 2 } })
		a.Kick("b")
		if err := echo(t, a, "b"); err != nil || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("after the restart and a kick: %v in %v", err, time.Since(begin))
		}
		if count(a, func(e Connected) bool { return e.Peer.Incarnation == 2 }) != 1 {
			t.Error("the new incarnation was not seen")
		}
	})
}

func TestRedialOnlyWhileWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a := start(t, network, "a", nil)
		_ = echo(t, a, "nobody")
		time.Sleep(wantedFor + 2*backoffMax)
		tries := count(a, func(DialFailed) bool { return true })
		if tries < 10 || tries > 40 {
			t.Errorf("%d dials while wanted", tries)
		}
		time.Sleep(time.Hour)
		if now := count(a, func(DialFailed) bool { return true }); now != tries {
			t.Errorf("%d more dials although nobody asked", now-tries)
		}
	})
}

func TestCutIsNoticedAndHeals(t *testing.T) {
	for name, cut := range map[string]func(*memnet.Network){
		"both ways": func(n *memnet.Network) { n.Cut("a", "b") },
		"there":     func(n *memnet.Network) { n.CutOneWay("a", "b") },
		"back":      func(n *memnet.Network) { n.CutOneWay("b", "a") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				a, b := start(t, network, "a", nil), start(t, network, "b", nil)
				if err := echo(t, a, "b"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if ago, ok := a.LastHeard("b"); !ok || ago > PingEvery+PingEvery {
					t.Errorf("heard %v ago on an idle link", ago)
				}
				cut(network)
				begin := time.Now()
				if err := echo(t, a, "b"); !errors.Is(err, ErrLost) {
					t.Errorf("call into a cut: %v", err)
				}
				if d := time.Since(begin); d > DeadAfter+PingEvery {
					t.Errorf("noticed after %v", d)
				}
				_ = echo(t, a, "b") // the dial that finds out
				begin = time.Now()
				if err := echo(t, a, "b"); !errors.Is(err, ErrUnreachable) || time.Since(begin) > 0 {
					t.Errorf("call to a cut-off peer: %v after %v", err, time.Since(begin))
				}
				network.Heal()
				time.Sleep(4 * time.Second)
				if err := errors.Join(echo(t, a, "b"), echo(t, b, "a")); err != nil {
					t.Errorf("after the heal: %v", err)
				}
			})
		})
	}
}

func TestDeliberateCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		var cut atomic.Bool
		a := start(t, network, "a", func(c *Config) {
			c.Allow = func(from, to partition.NodeID) bool { return !cut.Load() }
		})
		b := start(t, network, "b", nil)
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		cut.Store(true)
		time.Sleep(2 * DeadAfter)
		if a.Connected("b") || b.Connected("a") {
			t.Error("still connected")
		}
		if err := echo(t, b, "a"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("call through the cut: %v", err)
		}
		cut.Store(false)
		time.Sleep(2 * backoffMax)
		if err := echo(t, b, "a"); err != nil {
			t.Error(err)
		}
	})
}

// A cut that is announced ends the connection at once, on both sides, also when
// only one side makes it; and so does the end of the cut.
func TestSeverAndReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		network.SetConditionsEverywhere(memnet.Conditions{Latency: time.Millisecond})
		var cut atomic.Bool
		a := start(t, network, "a", func(c *Config) {
			c.Allow = func(from, to partition.NodeID) bool { return !cut.Load() }
		})
		b := start(t, network, "b", nil)
		if err := errors.Join(echo(t, a, "b"), echo(t, b, "a")); err != nil {
			t.Fatal(err)
		}
		cut.Store(true)
		a.Sever("b")
		if a.Connected("b") {
			t.Error("still connected")
		}
		time.Sleep(5 * time.Millisecond)
		if b.Connected("a") {
			t.Error("the other side is still connected")
		}
		if err := echo(t, a, "b"); !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrCut) {
			t.Errorf("call out of the cut: %v", err)
		}
		heard, _ := a.LastHeard("b")
		for range 20 {
			if err := echo(t, b, "a"); !errors.Is(err, ErrUnreachable) {
				t.Fatalf("call into the cut: %v", err)
			}
			time.Sleep(time.Second)
		}
		if now, _ := a.LastHeard("b"); now < heard+20*time.Second {
			t.Errorf("heard %v ago through the cut", now)
		}
		connects := a.Metrics()["b"].Connects
		time.Sleep(time.Minute) // nobody wants the connection any more
		cut.Store(false)
		a.Reconnect("b")
		time.Sleep(10 * time.Millisecond)
		if !a.Connected("b") || !b.Connected("a") {
			t.Error("not connected at once after the heal")
		}
		if got := a.Metrics()["b"].Connects; got != connects+1 {
			t.Errorf("%d connections were made", got-connects)
		}
		if err := errors.Join(echo(t, a, "b"), echo(t, b, "a")); err != nil {
			t.Error(err)
		}
	})
}

// A connection whose handshake is under way while a cut begins does not outlive
// it, however late in the handshake that is and whoever dialed.
func TestSeverDuringHandshake(t *testing.T) {
	for _, dialer := range []string{"a", "b"} {
		t.Run(dialer+" dials", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New()
				var cut atomic.Bool
				var a *node
				a = start(t, network, "a", func(c *Config) {
					c.Allow = func(from, to partition.NodeID) bool { return !cut.Load() }
					c.Admit = func(Hello) error { // the last that is asked
						cut.Store(true)
						a.Sever("b")
						return nil
					}
				})
				b := start(t, network, "b", nil)
				if dialer == "a" {
					a.Reconnect("b")
				} else {
					b.Reconnect("a")
				}
				synctest.Wait()
				if !cut.Load() {
					t.Fatal("no handshake")
				}
				for range 10 {
					if a.Connected("b") || b.Connected("a") {
						t.Fatal("connected across the cut")
					}
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
				}
			})
		})
	}
}

const kindQuick = 3

// One peer's calls get half of the handlers of a node, and leave the others to the rest.
func TestTooManyHandlersAreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b, c := start(t, network, "a", nil), start(t, network, "b", nil), start(t, network, "c", nil)
		b.Handle(kindQuick, func(context.Context, partition.NodeID, []byte) ([]byte, error) { return nil, nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var busy, lost atomic.Int64
		var wg sync.WaitGroup
		for range maxPeerHandlers + 10 {
			wg.Go(func() {
				_, err := a.Call(ctx, "b", kindWait, nil)
				if errors.Is(err, ErrBusy) {
					busy.Add(1)
				} else {
					lost.Add(1)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		if _, err := a.Call(ctx, "b", kindQuick, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("one more call of the same peer: %v", err)
		}
		if _, err := c.Call(ctx, "b", kindQuick, nil); err != nil {
			t.Errorf("a call of another peer: %v", err)
		}
		wg.Wait()
		if busy.Load() != 10 || lost.Load() != maxPeerHandlers {
			t.Errorf("%d busy, %d others", busy.Load(), lost.Load())
		}
	})
}

// A call that was sent is lost when this side closes, and not anything definite, too: it
// may have been carried out.
func TestCallUnderWayIsLostWhenItsOwnSideCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		done := make(chan struct{})
		b.Handle(kindQuick, func(context.Context, partition.NodeID, []byte) ([]byte, error) {
			close(done)
			time.Sleep(time.Second)
			return nil, nil
		})
		result := make(chan error, 1)
		go func() { _, err := a.Call(t.Context(), "b", kindQuick, nil); result <- err }()
		<-done
		_ = a.Close()
		if err := <-result; !errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) || errors.Is(err, ErrUnreachable) {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
	})
}

// Operations that wait, as many as are allowed, do not keep a control message
// from its handler.
func TestBusyHandlersLeaveControlAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, b := start(t, network, "a", nil), start(t, network, "b", nil)
		const kindHeld = 18
		b.Handle(kindHeld, func(ctx context.Context, _ partition.NodeID, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range maxPeerHandlers {
			wg.Go(func() { _, _ = a.Call(ctx, "b", kindHeld, nil) })
		}
		time.Sleep(time.Second)
		if _, err := a.Call(ctx, "b", kindHeld, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("one more operation: %v", err)
		}
		if err := echo(t, a, "b"); err != nil {
			t.Errorf("a control call beside them: %v", err)
		}
		cancel()
		wg.Wait()
	})
}

func TestFullQueueFailsOnlyItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		a, _ := start(t, network, "a", nil), start(t, network, "b", nil)
		if err := echo(t, a, "b"); err != nil {
			t.Fatal(err)
		}
		network.CutOneWay("a", "b") // nothing drains
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		var definite, indefinite atomic.Int64
		for range 12 {
			wg.Go(func() {
				_, err := a.Call(ctx, "b", kindCount, make([]byte, 4<<20))
				switch {
				case errors.Is(err, ErrBusy):
					definite.Add(1)
				case errors.Is(err, ErrLost):
					indefinite.Add(1)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		if err := a.Notify("b", kindEcho, nil); err != nil {
			t.Errorf("a control message behind a full bulk queue: %v", err)
		}
		wg.Wait()
		if definite.Load() == 0 || indefinite.Load() == 0 || definite.Load()+indefinite.Load() != 12 {
			t.Errorf("%d definite, %d indefinite", definite.Load(), indefinite.Load())
		}
		network.Heal()
	})
}

func TestLoopbackTCP(t *testing.T) {
	var a, b *Transport
	addr := map[partition.NodeID]string{}
	open := func(id partition.NodeID) *Transport {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr[id] = l.Addr().String()
		tr, err := New(Config{
			Self: id, Listener: l,
			Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
			Resolve: func(id partition.NodeID) (string, bool) { return addr[id], true },
		})
		if err != nil {
			t.Fatal(err)
		}
		tr.Handle(kindEcho, func(_ context.Context, _ partition.NodeID, p []byte) ([]byte, error) { return p, nil })
		return tr
	}
	a, b = open("a"), open("b")
	defer a.Close()
	defer b.Close()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 100 {
				want := bytes.Repeat([]byte{byte(i), byte(k)}, 1+k*k*10)
				from, to := a, partition.NodeID("b")
				if i%2 == 1 {
					from, to = b, "a"
				}
				if got, err := from.Call(t.Context(), to, kindEcho, want); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes back, %v", len(got), err)
					return
				}
			}
		})
	}
	wg.Wait()
}
