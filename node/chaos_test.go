package node

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// inChaos runs a test in a bubble with a formed cluster of n machines whose
// networks can be cut by their nodes.
func inChaos(t *testing.T, n int, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n, 1, func(c *Config) { c.EnableChaos = true })
		defer w.close()
		w.formed()
		test(t, w)
	})
}

func (m *machine) cut(from ...string) {
	m.world.t.Helper()
	if _, err := (chaosService{m.running().Node}).SetCut(m.world.t.Context(), &capstanv1.SetCutRequest{Nodes: from}); err != nil {
		m.world.t.Fatalf("cut of %s from %v: %v", m.name, from, err)
	}
}

func (m *machine) cutNow() []string {
	m.world.t.Helper()
	resp, err := (chaosService{m.running().Node}).GetCut(m.world.t.Context(), &capstanv1.GetCutRequest{})
	if err != nil {
		m.world.t.Fatal(err)
	}
	return resp.GetNodes()
}

func (m *machine) status() *capstanv1.GetStatusResponse {
	m.world.t.Helper()
	resp, err := (clusterService{m.running().Node}).GetStatus(m.world.t.Context(), &capstanv1.GetStatusRequest{})
	if err != nil {
		m.world.t.Fatal(err)
	}
	return resp
}

// sees is the machine's gossip view, as "n1 n3": those alive.
func (m *machine) sees() string {
	ring, alive := m.running().ring(), []string{}
	for id := range m.running().alive() {
		alive = append(alive, nameOf(ring, id))
	}
	slices.Sort(alive)
	return strings.Join(alive, " ")
}

// curl is a node's answer to a GET.
func (w *world) curl(path string, of *machine) (code int, body string, err error) {
	return answer(w.client().Get("http://" + of.host + ":7820" + path))
}

func (w *world) getCut(of *machine) (code int, body string, err error) {
	return answer(w.client().Post("http://"+of.host+":7820/capstan.v1.ChaosService/GetCut", "application/json", strings.NewReader("{}")))
}

func answer(resp *http.Response, err error) (int, string, error) {
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// One node is told to pull its cable, and the others are not told.
func TestChaosCutsOneNode(t *testing.T) {
	inChaos(t, 3, func(t *testing.T, w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		keys := make([]string, 4)
		for p := range keys {
			keys[p] = keyIn(partition.ID(p), 4, 0)
			n1.mustPut(keys[p], "before")
		}
		for round := range 3 {
			n3.cut("n1", string(n2.running().id))
			for _, m := range []*machine{n1, n2} {
				if n3.running().transport.Connected(m.running().id) {
					t.Errorf("n3 is still connected to %s", m.name)
				}
			}
			if got := n3.cutNow(); !slices.Equal(got, []string{"n1", "n2"}) {
				t.Error("cut from", got)
			}
			for p := range keys {
				w.leaderOf(partition.ID(p), n1, n2)
			}
			time.Sleep(3 * time.Second)
			heard := n3.running().transport.Metrics()

			// The minority refuses at once, and says what to do.
			for p, key := range keys {
				began := time.Now()
				_, put := n3.put(key, "y")
				_, _, get := n3.get(key)
				for advice, err := range map[string]error{
					"--ap to write at n3 now and merge when the cut heals": put,
					"--ap to read what n3 has now":                         get,
				} {
					var e *replication.Error
					if !errors.As(err, &e) || e.Reason != replication.NoQuorum || e.Outcome != replication.NotApplied {
						t.Fatalf("n3 answers %v", err)
					}
					if want := fmt.Sprintf("no quorum for partition %d: n3 reaches 1 of 3 replicas, 2 needed", p); e.Error() != want {
						t.Errorf("got %q, want %q", e.Error(), want)
					}
					if want := "--via n1 or --via n2, or " + advice; e.Try != want {
						t.Errorf("try %q, want %q", e.Try, want)
					}
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("refused after %v", took)
				}
				n1.mustPut(key, fmt.Sprint("round", round))
				n2.mustGet(key, fmt.Sprint("round", round))
				if n3.running().replicas.replica(partition.ID(p)).group.Leads() {
					t.Errorf("n3 leads partition %d", p)
				}
			}

			// Clients reach every node, and learn of the cut.
			for _, m := range w.machines {
				if code, body, err := w.curl("/healthz", m); code != 200 {
					t.Errorf("a client cannot reach %s: %d %s %v", m.name, code, body, err)
				}
				for _, node := range m.status().GetNodes() {
					want := []string(nil)
					if m == n3 && node.GetName() == "n3" {
						want = []string{"n1", "n2"}
					}
					if !slices.Equal(node.GetCutFrom(), want) {
						t.Errorf("%s shows %s cut from %v, want %v", m.name, node.GetName(), node.GetCutFrom(), want)
					}
					if dead := node.GetState() == capstanv1.NodeState_NODE_STATE_DEAD; m == n3 && dead != (node.GetName() != "n3") {
						t.Errorf("n3 shows %s as %v", node.GetName(), node.GetState())
					}
				}
			}
			if _, body, _ := w.curl("/metrics", n3); !strings.Contains(body, "\ncapstan_chaos_cut_peers 2\n") {
				t.Error("/metrics does not tell of the cut")
			} else if !regexp.MustCompile(`\ncapstan_chaos_cut_seconds [^0\n]`).MatchString(body) {
				t.Error("/metrics does not tell how long it has been")
			}

			// Gossip does not pass either, both ways.
			// (By what it cannot reach, a node doubts itself, and is patient.)
			w.eventually(time.Minute, "gossip gives up what is cut off", func() error {
				if a, b, c := n1.sees(), n2.sees(), n3.sees(); a != "n1 n2" || b != "n1 n2" || c != "n3" {
					return fmt.Errorf("n1 sees %s; n2 %s; n3 %s", a, b, c)
				}
				return nil
			})
			time.Sleep(time.Duration(round) * 30 * time.Second)
			for id, now := range n3.running().transport.Metrics() {
				if now.FramesReceived != heard[id].FramesReceived || now.FramesSent != heard[id].FramesSent || now.Connects != heard[id].Connects {
					t.Errorf("something passed between n3 and %s: %+v, then %+v", id, heard[id], now)
				}
			}
			if n3.sees() != "n3" {
				t.Error("n3 sees", n3.sees())
			}

			n3.cut()
			healed := time.Now()
			if got := n3.cutNow(); len(got) > 0 {
				t.Error("healed and cut from", got)
			}
			time.Sleep(5 * time.Millisecond) // a few trips
			for _, m := range []*machine{n1, n2} {
				if !n3.running().transport.Connected(m.running().id) || !m.running().transport.Connected(n3.running().id) {
					t.Errorf("n3 and %s are not connected at once after the heal", m.name)
				}
			}
			for _, key := range keys {
				w.eventually(5*time.Second, "n3 serves "+key, func() error {
					_, err := n3.put(key, "after")
					return err
				})
			}
			served := time.Since(healed)
			w.eventually(5*time.Second, "gossip is whole", func() error {
				for _, m := range w.machines {
					if m.sees() != "n1 n2 n3" {
						return fmt.Errorf("%s sees %s", m.name, m.sees())
					}
				}
				return nil
			})
			if whole := time.Since(healed); served > 2*time.Second || whole > 2*time.Second {
				t.Errorf("served %v after the heal, gossip was whole after %v", served, whole)
			} else {
				t.Logf("served %v after the heal, gossip was whole after %v", served, whole)
			}
			w.awaitReady(w.machines...)
			w.compareReplicas(w.machines...)
		}
		for _, line := range []string{
			"level=WARN msg=\"CHAOS: enabled", "level=WARN msg=\"CHAOS: the network is cut on purpose", "cut_from=\"[n1 n2]\"",
			"level=WARN msg=\"CHAOS: the network is still cut on purpose\" on=n3 cut_from=\"[n1 n2]\" for=1m0s",
			"level=WARN msg=\"CHAOS: the network cut is healed",
		} {
			if !strings.Contains(w.journal.String(), line) {
				t.Errorf("not in the log: %s", line)
			}
		}
	})
}

// A cut between two nodes leaves both connected with the third.
func TestChaosCutsOneLink(t *testing.T) {
	inChaos(t, 3, func(t *testing.T, w *world) {
		n1, n2, n3 := w.machines[0], w.machines[1], w.machines[2]
		n1.cut("n3")
		time.Sleep(10 * time.Millisecond) // on its way to n3
		for range 20 {
			if n1.running().transport.Connected(n3.running().id) || n3.running().transport.Connected(n1.running().id) {
				t.Fatal("n1 and n3 are connected")
			}
			if !n2.running().transport.Connected(n1.running().id) || !n2.running().transport.Connected(n3.running().id) {
				t.Fatal("n2 is not connected")
			}
			time.Sleep(500 * time.Millisecond)
		}
		for p := range 4 {
			key := keyIn(partition.ID(p), 4, 0)
			for _, m := range []*machine{n2, w.leaderOf(partition.ID(p))} {
				m.mustPut(key, m.name)
				m.mustGet(key, m.name)
			}
		}
		if n2.sees() != "n1 n2 n3" {
			t.Error("n2 sees", n2.sees())
		}
		n1.cut()
		w.awaitReady(w.machines...)
	})
}

// Both sides cut, as a tool does for a whole cluster, and heal one after the other
// in any order: the last one brings them together.
func TestChaosCutsBothSides(t *testing.T) {
	inChaos(t, 3, func(t *testing.T, w *world) {
		for round := range 3 {
			alone := w.machines[round]
			rest := w.others(alone)
			for _, m := range rest {
				m.cut(alone.name)
			}
			alone.cut(rest[0].name, rest[1].name)
			time.Sleep(15 * time.Second)
			if alone.sees() != alone.name || rest[0].sees() != rest[0].name+" "+rest[1].name {
				t.Errorf("%s sees %s, %s sees %s", alone.name, alone.sees(), rest[0].name, rest[0].sees())
			}
			order := []*machine{alone, rest[0], rest[1]}
			if round == 1 {
				slices.Reverse(order)
			}
			for _, m := range order {
				m.cut()
				time.Sleep(20 * time.Millisecond)
			}
			healed := time.Now()
			for p := range 4 {
				w.eventually(5*time.Second, "all serve", func() error {
					_, err := alone.put(keyIn(partition.ID(p), 4, 0), "after")
					return err
				})
			}
			served := time.Since(healed)
			w.eventually(5*time.Second, "gossip is whole", func() error {
				for _, m := range w.machines {
					if m.sees() != "n1 n2 n3" {
						return fmt.Errorf("%s sees %s", m.name, m.sees())
					}
				}
				return nil
			})
			whole := time.Since(healed)
			t.Logf("round %d: served %v after the heal, gossip was whole after %v", round, served, whole)
			if served > 2*time.Second || whole > 2*time.Second {
				t.Error("that was slow")
			}
			w.awaitReady(w.machines...)
		}
	})
}

func TestChaosSetCut(t *testing.T) {
	inChaos(t, 3, func(t *testing.T, w *world) {
		n1, n2 := w.machines[0], w.machines[1]
		n1.cut("n2", "n2", string(n2.running().id))
		_, since := n1.running().cuts.Cut()
		lines := strings.Count(w.journal.String(), "cut on purpose")
		time.Sleep(time.Second)
		n1.cut("n2")
		if _, again := n1.running().cuts.Cut(); !again.Equal(since) {
			t.Error("the same cut again began anew")
		}
		if now := strings.Count(w.journal.String(), "cut on purpose"); lines == 0 || now != lines {
			t.Errorf("%d log lines, then %d", lines, now)
		}
		for _, bad := range [][]string{
			{"n1"}, {"n3", "n1"}, {string(n1.running().id)}, {"n3", "n9"}, {""}, {"n"},
		} {
			_, err := (chaosService{n1.running().Node}).SetCut(t.Context(), &capstanv1.SetCutRequest{Nodes: bad})
			var e *replication.Error
			if !errors.As(err, &e) || e.Reason != replication.BadOption || e.Outcome != replication.NotApplied {
				t.Errorf("cut from %q: %v", bad, err)
			}
			if got := n1.cutNow(); !slices.Equal(got, []string{"n2"}) {
				t.Fatalf("cut from %q was refused and changed the cut to %v", bad, got)
			}
		}
		if code, body, err := w.getCut(n1); code != 200 || body != `{"nodes":["n2"]}` {
			t.Errorf("GetCut answers a client with %d %s %v", code, body, err)
		}
		// A start knows of no cut; and only with chaos enabled is there the service.
		n1.stop()
		n1.start(func(c *Config) { c.EnableChaos = false })
		w.awaitReady(w.machines...)
		if code, body, err := w.getCut(n1); code != 501 {
			t.Errorf("GetCut without chaos answers %d %s %v", code, body, err)
		}
		n1.stop()
		n1.start()
		w.awaitReady(w.machines...)
		if got := n1.cutNow(); len(got) > 0 || n1.running().cuts.IsCut(n2.running().id) {
			t.Error("cut after a start from", got)
		}
		n1.mustPut("k", "v")
	})
}

// What capstan explain shows, on both sides of a cut, at a node with and without
// a replica.
func TestLocateKey(t *testing.T) {
	const key = "{t}a"
	text := func(m *machine) string {
		resp, err := (clusterService{m.running().Node}).LocateKey(t.Context(), &capstanv1.LocateKeyRequest{Key: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		fmt.Fprintf(&out, "leader %q", resp.GetLeader())
		for _, r := range resp.GetRoutes() {
			fmt.Fprintf(&out, "; %s %q %q %q", strings.TrimPrefix(r.GetConsistency().String(), "CONSISTENCY_"), r.GetReadsFrom(), r.GetWritesTo(), r.GetRefusal())
		}
		return out.String()
	}
	const refused = `leader ""; LINEARIZABLE "" "" "2 of 3 replicas needed"; BOUNDED_STALENESS "" "" "refused once the bound is used up: no leader to ask"; `
	inChaos(t, 4, func(t *testing.T, w *world) {
		p := partition.Of([]byte(key), 4)
		var holders []*machine
		var stranger *machine
		for _, m := range w.machines {
			if m.running().replicas.replica(p) == nil {
				stranger = m
			} else {
				holders = append(holders, m)
			}
		}
		leader := w.leaderOf(p)
		for _, m := range w.machines {
			m.mustPut(key, "x") // everybody knows who leads
			near := m.name
			if m == stranger {
				near = leader.name
			}
			want := fmt.Sprintf(`leader %[1]q; LINEARIZABLE %[2]q %[1]q ""; BOUNDED_STALENESS %[2]q "" ""; EVENTUAL %[2]q %[2]q ""`, leader.name, near)
			if got := text(m); got != want {
				t.Errorf("at %s:\n got %s\nwant %s", m.name, got, want)
			}
		}

		// The stranger and one replica on one side.
		alone := w.others(leader, stranger)[0]
		rest := w.others(alone, stranger)
		for _, m := range []*machine{alone, stranger} {
			m.cut(rest[0].name, rest[1].name)
		}
		if got, want := text(stranger), refused+fmt.Sprintf(`EVENTUAL %[1]q %[1]q ""`, alone.name); got != want {
			t.Errorf("at the stranger, at once:\n got %s\nwant %s", got, want)
		}
		// The replica names no leader across the cut, though Raft believes in it
		// for a while, and says "refused" from when it refuses.
		if got := text(alone); !strings.HasPrefix(got, `leader ""`) {
			t.Errorf("at the replica, at once: %s", got)
		}
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			refuses := alone.running().replicas.replica(p).group.Refuses() != nil
			if got, want := text(alone), refused+fmt.Sprintf(`EVENTUAL %[1]q %[1]q ""`, alone.name); refuses && got != want {
				t.Fatalf("at the replica:\n got %s\nwant %s", got, want)
			}
		}
		if alone.running().replicas.replica(p).group.Refuses() == nil {
			t.Error("the replica does not refuse")
		}
		if got := text(rest[0]); !strings.HasPrefix(got, fmt.Sprintf(`leader %q; LINEARIZABLE %q`, w.leaderOf(p, rest...).name, rest[0].name)) {
			t.Errorf("on the other side: %s", got)
		}
		stranger.cut(holders[0].name, holders[1].name, holders[2].name)
		if got, want := text(stranger), refused+fmt.Sprintf(`EVENTUAL %[1]q %[1]q ""`, stranger.name); got != want {
			t.Errorf("at the stranger alone:\n got %s\nwant %s", got, want)
		}
		_, err := stranger.put(key, "z")
		var e *replication.Error
		if !errors.As(err, &e) || e.Outcome != replication.NotApplied || !strings.HasSuffix(e.Try, ", or --ap to write at "+stranger.name+" now and merge when the cut heals") {
			t.Errorf("a write at the stranger alone: %v, try %q", err, e.Try)
		}
		for _, m := range w.machines {
			m.cut()
		}
		w.awaitReady(w.machines...)
	})
}

// What cannot be done at the eventual level is not advised.
func TestAdvice(t *testing.T) {
	version := &capstanv1.Condition{Test: &capstanv1.Condition_Absent{}}
	for _, c := range []struct {
		eventually string
		nodes      []string
		want       string
	}{
		{eventually(&capstanv1.PutRequest{}), []string{"n2", "n1"}, "--via n1 or --via n2, or --ap to write at n3 now and merge when the cut heals"},
		{eventually(&capstanv1.DeleteRequest{}), []string{"n1"}, "--via n1, or --ap to write at n3 now and merge when the cut heals"},
		{eventually(&capstanv1.GetRequest{}), []string{"n1"}, "--via n1, or --ap to read what n3 has now"},
		{eventually(&capstanv1.GetRequest{}), nil, "--ap to read what n3 has now"},
		{eventually(&capstanv1.PutRequest{Condition: version}), []string{"n1"}, "--via n1"},
		{eventually(&capstanv1.DeleteRequest{Condition: version}), nil, ""},
	} {
		if got := advice(c.nodes, c.eventually, "n3"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
