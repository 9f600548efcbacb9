//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
	"github.com/capstan-kv/capstan/storage/fault"
	"github.com/capstan-kv/capstan/storage/fault/bend"
)

// startVolatile starts a cluster whose disks lose at a kill what was not synced.
func startVolatile(t *testing.T, count int, planted fault.Fault) *cluster {
	t.Helper()
	binary := withFaults(t)
	c := newCluster(t, count)
	for _, n := range c.nodes {
		n.bendable(binary, bend.Control{Generation: 1, Volatile: true})
		if planted != "" {
			n.env = append(n.env, "CAPSTAN_FAULT="+string(planted))
		}
		n.start()
	}
	c.untilReady(c.nodes...)
	for _, n := range c.nodes {
		if felt, err := n.felt(); err != nil || !felt.Volatile {
			t.Fatalf("%s does not run on a volatile disk: %+v, %v", n.name, felt, err)
		}
	}
	return c
}

// cutPower ends all processes at once and starts them again.
func (c *cluster) cutPower() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range c.nodes {
		n.exit()
	}
	for _, n := range c.nodes {
		n.start()
	}
}

// All machines lose their power at once while clients write. What was
// acknowledged is there, what was refused is not.
func TestClusterPowerCutUnderLoad(t *testing.T) {
	t.Parallel()
	c := startVolatile(t, 3, "")
	l := startLoad(c)
	for range 3 {
		l.untilAcks(killLoad)
		c.cutPower()
		c.untilReady(c.nodes...)
	}
	l.untilAcks(killLoad)
	l.check()
}

// An eventual write is on disk where it was acknowledged, before anybody promotes it.
func TestClusterPowerCutAfterEventualWrites(t *testing.T) {
	t.Parallel()
	c := startVolatile(t, 3, "")
	var all []string
	receipts := map[*serving][]string{}
	for round := range 3 {
		for i, n := range c.nodes {
			keys := numbered(fmt.Sprintf("power/%d/%d/", round, i), 10)
			receipts[n] = n.eventually(1, keys...)
			all = append(all, keys...)
		}
		c.cutPower()
		c.untilReady(c.nodes...)
		for _, n := range c.nodes {
			n.become(capstanv1.Fate_FATE_COMMITTED, receipts[n]...)
		}
		for _, n := range c.nodes {
			n.holds(client.Linearizable(), all...)
		}
	}
}

// The same cut shows it if a node acknowledges what is not on its disk.
func TestClusterPowerCutFindsEarlyAcks(t *testing.T) {
	t.Parallel()
	c := startVolatile(t, 3, fault.AckBeforeFsync)
	asked := c.client(nil)
	const writes = 50
	for i := range writes {
		ctx, cancel := context.WithTimeout(t.Context(), client.DefaultTimeout)
		_, err := asked.Put(ctx, fmt.Appendf(nil, "early/%d", i), []byte("x"))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.cutPower()
	// They may be gone, or so much that no node can serve any more. Or a node notices that its
	// log has lost what its state had applied, and says so.
	const wait = 20 * time.Second
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(poll) {
		for _, n := range c.nodes {
			if err := n.ready(); err != nil && strings.Contains(err.Error(), "does not belong to the Raft log") {
				t.Logf("%s has noticed: %v", n.name, err)
				return
			}
		}
		for i := range writes {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			got, err := asked.Get(ctx, fmt.Appendf(nil, "early/%d", i))
			cancel()
			if err != nil {
				break
			}
			if !got.Found {
				t.Logf("early/%d was acknowledged and is gone", i)
				return
			}
			if i == writes-1 {
				t.Fatal("everything is there: nothing was lost by the cut")
			}
		}
	}
	for _, n := range c.nodes {
		t.Logf("%s: %v", n.name, n.ready())
	}
	t.Errorf("no answer in %s", wait)
}
