//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/jepsen/contract"
)

// capstan runs a command that has to end with a status, and returns what it
// printed.
func (c *cluster) capstan(status int, args ...string) string {
	c.t.Helper()
	stdout, stderr, got := c.command("", args...)
	if got != status {
		c.t.Fatalf("capstan %s: status %d, want %d\n%s%s", strings.Join(args, " "), got, status, stdout, stderr)
	}
	return stdout + stderr
}

// The cable is pulled twice, between other nodes, while clients mix all levels.
// On both sides eventual requests are answered; linearizable ones are where
// there is a quorum, and refused at once where there is none. Afterwards the
// whole history is judged by the contract.
func TestClusterCutsUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "--enable-chaos")
	m := startMixed(c)
	m.until(more{c.nodes, contract.Eventual, contract.OK, 20}, more{c.nodes, contract.Linearizable, contract.OK, 20})
	for i, alone := range []int{2, 0} {
		minority := c.nodes[alone]
		var majority []*serving
		var names []string
		for _, n := range c.nodes {
			if n != minority {
				majority, names = append(majority, n), append(names, n.name)
			}
		}
		said := c.capstan(0, "chaos", "cut", strings.Join(names, ","), minority.name)
		if want := minority.name + " leads none"; !strings.Contains(said, "settled in") || !strings.Contains(said, want) {
			t.Errorf("chaos cut said %s", said)
		}
		settled := m.now()
		m.until(more{c.nodes, contract.Eventual, contract.OK, 50}, more{majority, contract.Linearizable, contract.OK, 25},
			more{[]*serving{minority}, contract.Linearizable, contract.Failed, 25})
		healed := m.now()
		if i == 0 {
			// While there are new ones all the time, heal may not see the moment
			// without tentative writes.
			said, _, _ = c.command("", "chaos", "heal")
		} else {
			m.quietly(func() { said = c.capstan(0, "chaos", "heal") })
		}
		if !strings.HasPrefix(said, "healed after ") || i == 1 && !strings.Contains(said, "no tentative writes left") {
			t.Errorf("chaos heal said %s", said)
		}
		m.minority(minority, settled, healed)
		m.until(more{c.nodes, contract.Linearizable, contract.OK, 10})
	}
	m.check()
}

// eventually writes keys eventually at one node, which puts them on disk at as
// many nodes as asked, and returns the receipts.
func (n *serving) eventually(acks uint32, keys ...string) (receipts []string) {
	n.c.t.Helper()
	asked := n.c.client(n)
	for _, key := range keys {
		put, err := asked.Put(n.c.t.Context(), []byte(key), []byte("of "+key), client.Eventual(), client.Acks(acks))
		if err != nil {
			n.c.t.Fatalf("eventual put of %s at %s: %v", key, n.name, err)
		}
		if put.ServedBy != n.name || put.Receipt == "" || put.Version.Index != 0 {
			n.c.t.Errorf("eventual put of %s at %s: %+v", key, n.name, put)
		}
		receipts = append(receipts, put.Receipt)
	}
	return receipts
}

// become checks what became of writes, as n says.
func (n *serving) become(want capstanv1.Fate, receipts ...string) {
	n.c.t.Helper()
	asked := n.c.client(n)
	for _, receipt := range receipts {
		r, err := asked.AwaitWrite(context.Background(), receipt, clusterPatience)
		if err != nil || r.Fate != want {
			n.c.t.Errorf("write %s: %s, %v, want %s", receipt, r.Message().GetFate(), err, want)
		}
	}
}

// holds checks the values that [serving.eventually] wrote, without a session.
func (n *serving) holds(level client.LevelOption, keys ...string) {
	n.c.t.Helper()
	asked, err := client.New(client.Options{Endpoints: []string{n.url()}, Via: n.url(), NoSession: true})
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer asked.Close()
	for _, key := range keys {
		r, err := asked.Get(n.c.t.Context(), []byte(key), level)
		if err != nil || string(r.Value) != "of "+key {
			n.c.t.Errorf("%s at %s: %+v, %v", key, n.name, r, err)
		}
	}
}

// numbered are keys over many partitions.
func numbered(prefix string, count int) (keys []string) {
	for i := range count {
		keys = append(keys, fmt.Sprint(prefix, i))
	}
	return keys
}

// A node that is cut off takes writes, dies with kill -9 before anybody else has
// heard of them, and comes back, still cut off. Nobody there can tell whether its
// disk is the newest copy: it refuses everything until the cut is healed. Then
// each of the writes is committed.
func TestClusterKilledBetweenAcceptingAndPromoting(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "--enable-chaos")
	n1, n3 := c.nodes[0], c.nodes[2]
	shared := numbered("shared/", 8)
	n1.eventually(1, shared...)
	var keys, receipts []string
	for round := range 3 {
		c.capstan(0, "chaos", "isolate", "n3")
		more := numbered(fmt.Sprintf("round %d/", round), 20)
		keys, receipts = append(keys, more...), append(receipts, n3.eventually(1, more...)...)
		n3.kill()
		n3.start()
		// n3 has no cut of its own any more; n1 and n2 keep theirs.
		c.until("n3 answers", func() error {
			_, _, _, err := plain(http.MethodGet, n3.url()+"/livez", "")
			return err
		})
		for _, request := range [][]string{
			{"put", "--ap", "refused", "x"}, {"put", "refused", "x"}, {"get", "--ap", more[0]}, {"await", "--wait", "0", receipts[0]},
		} {
			said := c.capstan(3, append(request, "--via", "n3")...)
			if !strings.Contains(said, "this start is not registered with the cluster yet") {
				t.Errorf("%v at n3: %s", request, said)
			}
		}
		c.capstan(0, "chaos", "heal")
		c.untilReady(n3)
		n3.holds(client.Eventual(), more...)
	}
	n1.become(capstanv1.Fate_FATE_COMMITTED, receipts...)
	for _, n := range c.nodes {
		c.untilReady(n)
		n.holds(client.Linearizable(), slices.Concat(keys, shared)...)
	}
	if found, err := listConflicts(t, n1); err != nil || len(found) > 0 {
		t.Errorf("conflicts %v, %v", found, err)
	}
	absent(t, c, "refused")
}

// With acks 2 a write outlives the disk of the node that took it, in a minority
// that cannot commit anything. What only that disk had is pending for as long as
// the node may come back, and lost, by that name, once it is removed.
func TestClusterAcksOutliveADisk(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 5, "--enable-chaos", "--replication-factor", "5", "--log-level", "debug")
	n1, n2, n5 := c.nodes[0], c.nodes[1], c.nodes[4]
	// It is n1's disk, too, that holds the only vote in the control group at first.
	c.until("five nodes vote in the control group", func() error {
		text, err := os.ReadFile(n1.log)
		if got := strings.Count(string(text), " a voter\""); err == nil && got < 4 {
			err = fmt.Errorf("%d besides n1", got)
		}
		return err
	})
	c.capstan(0, "chaos", "cut", "n1,n2", "n3,n4,n5")
	both, alone := numbered("both/", 20), numbered("alone/", 20)
	safe := n1.eventually(2, both...)
	if said := c.capstan(0, "put", "--ap", "--acks", "2", "--via", "n2", "as printed", "x"); !strings.Contains(said, "on disk at 2 of 5 replicas  by n2") {
		t.Errorf("it said %s", said)
	}
	said := c.capstan(3, "put", "--ap", "--acks", "3", "--via", "n1", "refused", "x")
	for _, want := range []string{"too few nodes for acks 3: 2 can be reached", "not applied: nothing was written, a retry is safe"} {
		if !strings.Contains(said, want) {
			t.Errorf("it did not say %q:\n%s", want, said)
		}
	}
	if said := c.capstan(2, "put", "--ap", "--acks", "6", "--via", "n1", "refused", "x"); !strings.Contains(said, "replication factor is 5") {
		t.Errorf("it said %s", said)
	}

	c.capstan(0, "chaos", "cut", "n1", "n2", "n3,n4,n5")
	unsafe := n1.eventually(1, alone...)
	n1.holds(client.Eventual(), slices.Concat(both, alone)...)
	n1.kill()
	if err := os.RemoveAll(n1.dir); err != nil {
		t.Fatal(err)
	}
	c.capstan(0, "chaos", "heal")
	n5.become(capstanv1.Fate_FATE_COMMITTED, safe...)
	n5.holds(client.Linearizable(), both...)
	if said := c.capstan(4, "await", "--via", "n5", "--wait", "0", unsafe[0]); !strings.HasPrefix(said, "pending") {
		t.Errorf("await says %s", said)
	}
	var refused string
	c.until("n1 is known to be down", func() error {
		if _, refused, _ = c.command("", "node", "remove", "--via", "n5", "n1"); !strings.Contains(refused, "--forfeit-tentative") {
			return errors.New(refused)
		}
		return nil
	})
	c.capstan(0, "node", "remove", "--via", "n5", "n1", "--forfeit-tentative")
	n2.become(capstanv1.Fate_FATE_LOST, unsafe...)
	n2.become(capstanv1.Fate_FATE_COMMITTED, safe...)
	if said := c.capstan(1, "await", "--via", "n2", unsafe[0]); !strings.HasPrefix(said, "lost") {
		t.Errorf("await says %s", said)
	}
	asked := c.client(n2)
	for _, key := range append(alone, "refused") {
		if r, err := asked.Get(t.Context(), []byte(key)); err != nil || r.Found {
			t.Errorf("%s: %+v, %v", key, r, err)
		}
	}
}

// A node that is stopped in the middle neither loses what it took nor keeps the
// others from taking more; who asks for its disk too is told, at first that
// nobody knows, then that it cannot be reached.
func TestClusterPausedNodeHoldsEventualWrites(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	n1, n3 := c.nodes[0], c.nodes[2]
	taken := numbered("taken/", 30)
	receipts := n3.eventually(1, taken...)
	n3.pause()
	asked := c.client(n1)
	write := func() error {
		_, err := asked.Put(t.Context(), []byte("everywhere"), []byte("of everywhere"), client.Eventual(), client.Acks(3))
		return err
	}
	var unknown []string
	c.until("n1 knows that n3 cannot be reached", func() error {
		err := write()
		var e *client.Error
		switch {
		case err == nil:
			t.Fatal("acknowledged by a node that is stopped")
		case !errors.As(err, &e):
			t.Fatal(err)
		case client.IsOutcomeUnknown(err):
			if e.Code != connect.CodeAborted || e.Receipt == "" || e.Reachable != 2 || e.Needed != 3 {
				t.Fatalf("unknown: %+v", e)
			}
			unknown = append(unknown, e.Receipt)
			return err
		case !errors.Is(err, client.ErrTooFewAcks) || e.Code != connect.CodeUnavailable || e.Reachable != 2 || e.Needed != 3:
			t.Fatalf("refused: %+v", e)
		}
		return nil
	})
	t.Logf("%d of unknown outcome", len(unknown))
	during := numbered("during/", 30)
	receipts = append(receipts, n1.eventually(2, during...)...)
	c.until("the others lead", func() error { return c.write(n1, "x", numbered("linearizable/", 20)...) })
	n1.become(capstanv1.Fate_FATE_COMMITTED, unknown...)

	n3.signal(syscall.SIGCONT)
	n3.become(capstanv1.Fate_FATE_COMMITTED, receipts...)
	c.untilReady(n3)
	for _, n := range c.nodes {
		n.holds(client.Linearizable(), slices.Concat(taken, during)...)
	}
	n3.holds(client.Eventual(), slices.Concat(taken, during)...)
	if err := write(); err != nil {
		t.Errorf("acks 3 with all nodes: %v", err)
	}
}
