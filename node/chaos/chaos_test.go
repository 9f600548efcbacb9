package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/memnet"
)

type ids = []partition.NodeID

func set(t *testing.T, c *Cuts, now int64, nodes ...partition.NodeID) (cut, healed ids) {
	t.Helper()
	cut, healed, err := c.Set(nodes, time.Unix(now, 0))
	if err != nil {
		t.Fatal(err)
	}
	return cut, healed
}

func TestSet(t *testing.T) {
	c := New("n3")
	if nodes, since := c.Cut(); len(nodes) > 0 || !since.IsZero() {
		t.Error("cut off from the start:", nodes, since)
	}
	for i, step := range []struct {
		set, cut, healed ids
		since            int64 // 0: none
	}{
		{set: ids{}},
		{set: ids{"n2", "n1", "n2"}, cut: ids{"n1", "n2"}, since: 1},
		{set: ids{"n1", "n2"}, since: 1}, // nothing new
		{set: ids{"n4", "n2"}, cut: ids{"n4"}, healed: ids{"n1"}, since: 1},
		{set: nil, healed: ids{"n2", "n4"}},
		{set: ids{"n1"}, cut: ids{"n1"}, since: 5},
	} {
		changed := c.Changed()
		cut, healed := set(t, c, int64(i), step.set...)
		if !slices.Equal(cut, step.cut) || !slices.Equal(healed, step.healed) {
			t.Errorf("step %d: newly cut %v, healed %v; want %v, %v", i, cut, healed, step.cut, step.healed)
		}
		select {
		case <-changed:
			if len(cut)+len(healed) == 0 {
				t.Errorf("step %d changed nothing and says so", i)
			}
		default:
			if len(cut)+len(healed) > 0 {
				t.Errorf("step %d: nobody was told of the change", i)
			}
		}
		nodes, since := c.Cut()
		want := slices.Compact(slices.Sorted(slices.Values(step.set)))
		if !slices.Equal(nodes, want) || since.IsZero() != (step.since == 0) || step.since > 0 && since.Unix() != step.since {
			t.Errorf("step %d: cut off from %v since %v; want %v since %d", i, nodes, since, want, step.since)
		}
	}
	if _, _, err := c.Set(ids{"n2", "n3"}, time.Unix(9, 0)); !errors.Is(err, ErrSelf) {
		t.Error("cut off from itself:", err)
	}
	if c.IsCut("n2") || !c.IsCut("n1") {
		t.Error("what was refused changed something")
	}
}

// A cut holds both ways, for the nodes named and for no others.
func TestAllow(t *testing.T) {
	nodes := ids{"n1", "n2", "n3", "n4"}
	rapid.Check(t, func(t *rapid.T) {
		self := rapid.SampledFrom(nodes).Draw(t, "self")
		c := New(self)
		var cut ids
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			cut = nil
			for _, n := range nodes {
				if n != self && rapid.Bool().Draw(t, "cut") {
					cut = append(cut, n)
				}
			}
			if _, _, err := c.Set(cut, time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
		for _, from := range nodes {
			for _, to := range nodes {
				want := from == to || from != self && to != self || !slices.Contains(cut, from) && !slices.Contains(cut, to)
				if got := c.Allow(from, to); got != want {
					t.Fatalf("%s cut off from %v: from %s to %s: %v", self, cut, from, to, got)
				}
			}
		}
	})
}

func TestWhoIsBehindAnAddress(t *testing.T) {
	c := New("n1")
	c.Learn(map[partition.NodeID]string{
		"n1": "127.0.0.1:7822", "n2": "127.0.0.1:7832", "n3": "127.0.0.1:7842", "n4": "10.0.0.4:7822", "n5": "[fe80::5%eth0]:7822", "n6": "six:7822", "n7": "",
	})
	for _, address := range []string{"127.0.0.1:7842", "10.0.0.4:7822", "127.0.0.1:1"} {
		if now := c.now.Load(); now.exact(address) || now.source(address) {
			t.Error("cut off while there is no cut:", address)
		}
	}
	set(t, c, 1, "n3", "n4", "n5", "n6", "n7", "n8")
	for address, want := range map[string]struct{ exact, source bool }{
		"127.0.0.1:7842":          {true, true},
		"[::ffff:127.0.0.1]:7842": {true, true},
		"127.0.0.1:7832":          {false, true}, // a stream from there may be n3's
		"127.0.0.1:50123":         {false, true},
		"10.0.0.4:7822":           {true, true},
		"10.0.0.4:50123":          {true, true}, // nobody else lives there
		"10.0.0.9:7822":           {false, false},
		"[fe80::5]:7822":          {true, true},
		"six:7822":                {true, true},
		"six:1":                   {true, true},
		"seven:1":                 {false, false},
		"":                        {false, false},
		":7822":                   {false, false},
		"nonsense":                {false, false},
	} {
		now := c.now.Load()
		if exact, source := now.exact(address), now.source(address); exact != want.exact || source != want.source {
			t.Errorf("%s: exact %v, source %v; want %+v", address, exact, source, want)
		}
	}
	c.Learn(map[partition.NodeID]string{"n3": "10.0.0.3:7822"})
	if now := c.now.Load(); now.exact("127.0.0.1:7842") || !now.exact("10.0.0.3:7822") || !now.nodes["n4"] {
		t.Error("a node that moved is cut off at its old address, or not at its new one")
	}
}

// ends are two hosts with gossip's sockets, of which the first can be cut off.
type ends struct {
	cuts    *Cuts
	a, b    Network
	packets [2]net.PacketConn
	streams [2]chan net.Conn
}

func inEnds(t *testing.T, test func(t *testing.T, e *ends)) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		e := &ends{cuts: New("n1"), b: network.Host("10.0.0.2")}
		e.a = e.cuts.Gossip(network.Host("10.0.0.1"))
		e.cuts.Learn(map[partition.NodeID]string{"n1": "10.0.0.1:7822", "n2": "10.0.0.2:7822", "n3": "10.0.0.3:7822"})
		for i, n := range []Network{e.a, e.b} {
			l, err := n.Listen(":7822")
			if err != nil {
				t.Fatal(err)
			}
			if e.packets[i], err = n.ListenPacket(":7822"); err != nil {
				t.Fatal(err)
			}
			e.streams[i] = make(chan net.Conn, 10)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					e.streams[i] <- conn
				}
			}()
			defer func() { _ = errors.Join(l.Close(), e.packets[i].Close()) }()
		}
		test(t, e)
	})
}

// packet sends one packet from an end to the other and says whether it came.
func (e *ends) packet(t *testing.T, from int) bool {
	t.Helper()
	to := e.packets[1-from]
	if n, err := e.packets[from].WriteTo([]byte("hello"), to.LocalAddr()); n != 5 || err != nil {
		t.Fatal("a packet that was sent:", n, err)
	}
	_ = to.SetReadDeadline(time.Now().Add(time.Second))
	var b [10]byte
	n, _, err := to.ReadFrom(b[:])
	return err == nil && string(b[:n]) == "hello"
}

// stream opens one and says whether bytes pass both ways.
func (e *ends) stream(t *testing.T, from int) (here, there net.Conn, err error) {
	t.Helper()
	n, address := e.a, "10.0.0.2:7822"
	if from == 1 {
		n, address = e.b, "10.0.0.1:7822"
	}
	here, err = n.Dial(context.Background(), address)
	if err != nil {
		return nil, nil, err
	}
	_ = here.SetDeadline(time.Now().Add(time.Second))
	if _, err = here.Write([]byte("x")); err != nil {
		return nil, nil, err
	}
	synctest.Wait()
	select {
	case there = <-e.streams[1-from]:
		if _, err = io.ReadFull(there, make([]byte, 1)); err != nil {
			return nil, nil, err
		}
		_, err = there.Write([]byte("y"))
	default:
	}
	if err == nil {
		_, err = io.ReadFull(here, make([]byte, 1))
	}
	return here, there, err
}

func TestGossip(t *testing.T) {
	inEnds(t, func(t *testing.T, e *ends) {
		check := func(when string, open bool) {
			t.Helper()
			for from := range 2 {
				if e.packet(t, from) != open {
					t.Errorf("%s: a packet from %d", when, from)
				}
				here, there, err := e.stream(t, from)
				if (err == nil) != open {
					t.Errorf("%s: a stream from %d: %v", when, from, err)
				}
				if from == 0 && !open && !errors.Is(err, ErrCut) {
					t.Errorf("%s: dial: %v", when, err)
				}
				for _, conn := range []net.Conn{here, there} {
					if conn != nil {
						_ = conn.Close()
					}
				}
			}
			if len(e.cuts.open) > 0 {
				t.Errorf("%s: %d closed streams are kept", when, len(e.cuts.open))
			}
		}
		check("before", true)
		set(t, e.cuts, 1, "n3")
		check("cut off from another", true)
		set(t, e.cuts, 2, "n2")
		check("cut off", false)
		set(t, e.cuts, 3)
		check("healed", true)
	})
}

// Streams that are open when a cut is made end with it; others do not.
func TestOpenStreamsEnd(t *testing.T) {
	inEnds(t, func(t *testing.T, e *ends) {
		for from := range 2 {
			here, there, err := e.stream(t, from)
			if err != nil {
				t.Fatal(err)
			}
			set(t, e.cuts, 1, "n3")
			_ = here.SetDeadline(time.Time{})
			if _, err := there.Write([]byte("z")); err != nil {
				t.Error("after a cut from another node:", err)
			}
			if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
				t.Error("after a cut from another node:", err)
			}
			set(t, e.cuts, 2, "n2")
			for _, conn := range []net.Conn{here, there} {
				if n, err := conn.Read(make([]byte, 1)); err == nil {
					t.Errorf("stream dialed by %d: %d bytes across the cut", from, n)
				}
				_ = conn.Close()
			}
			set(t, e.cuts, 3)
		}
	})
}

// A dial that is under way while the cut is made brings no stream.
func TestDialUnderWay(t *testing.T) {
	inEnds(t, func(t *testing.T, e *ends) {
		e.a = e.cuts.Gossip(slowDial{e.b, func() { set(t, e.cuts, 1, "n2") }})
		if _, err := e.a.Dial(context.Background(), "10.0.0.2:7822"); !errors.Is(err, ErrCut) {
			t.Error("dialed across a cut:", err)
		}
	})
}

type slowDial struct {
	Network
	meanwhile func()
}

func (n slowDial) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := n.Network.Dial(ctx, addr)
	n.meanwhile()
	return conn, err
}

func TestOwnAddressIsPassedOn(t *testing.T) {
	type host interface{ IP() net.IP }
	c := New("n1")
	if own, ok := c.Gossip(memnet.New().Host("10.0.0.1")).(host); !ok || own.IP().String() != "10.0.0.1" {
		t.Error("a network's own address is lost")
	}
	if _, ok := c.Gossip(slowDial{}).(host); ok {
		t.Error("an address of its own is made up")
	}
}
