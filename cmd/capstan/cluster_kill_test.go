//go:build linux

package main

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/api/client"
)

// killLoad is how many acknowledged writes pass between two events, so that
// each of them hits a cluster at work.
const killLoad = 60

func TestClusterKillEachNodeUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	l := startLoad(c)
	l.untilAcks(killLoad)
	for _, n := range c.nodes {
		n.kill()
		l.untilAcks(killLoad)
		n.start()
		c.untilReady(n)
		l.untilAcks(killLoad)
	}
	c.untilReady(c.nodes...)
	l.check()
}

func TestClusterKillAllNodesUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	l := startLoad(c)
	for range 2 {
		l.untilAcks(killLoad)
		for _, n := range c.nodes {
			n.signal(syscall.SIGKILL)
		}
		for _, n := range c.nodes {
			n.exit()
		}
		for _, n := range c.nodes {
			n.start()
		}
		c.untilReady(c.nodes...)
	}
	l.untilAcks(killLoad)
	l.check()
}

// A node's death interrupts a key for no more than an election.
func TestClusterInterruption(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	const keys = 32
	// most is far above an election (2 to 4 s), for machines that are busy.
	const most = 20 * time.Second
	dead := c.nodes[1]
	write := func(asked *client.Client, key string, end time.Time) (time.Duration, error) {
		var err error
		for began := time.Now(); time.Now().Before(end); {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err = asked.Put(ctx, []byte(key), []byte("x"))
			cancel()
			if err == nil {
				return time.Since(began), nil
			}
			time.Sleep(poll)
		}
		return 0, err
	}
	survivors := []*client.Client{c.client(c.nodes[0]), c.client(c.nodes[2])}
	for i := range keys {
		if _, err := write(survivors[i%2], fmt.Sprint("key/", i), time.Now().Add(clusterPatience)); err != nil {
			t.Fatal(err)
		}
	}
	dead.kill()
	end := time.Now().Add(most)
	times := make([]time.Duration, keys)
	var writers []func()
	for i := range keys {
		writers = append(writers, func() {
			var err error
			if times[i], err = write(survivors[i%2], fmt.Sprint("key/", i), end); err != nil {
				t.Errorf("key/%d is not writable %s after %s was killed: %v", i, most, dead.name, err)
			}
		})
	}
	together(writers...)
	longest, led := time.Duration(0), 0
	for _, d := range times {
		longest = max(longest, d)
		if d > 100*time.Millisecond {
			led++
		}
	}
	t.Logf("%d of %d keys were interrupted, the longest for %s", led, keys, longest.Round(time.Millisecond))
}

// A node that is asked to stop hands its leadership away first, so that a
// rolling restart is hardly felt.
func TestClusterRollingRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	l := startLoad(c)
	l.untilAcks(killLoad)
	for _, n := range c.nodes {
		began := time.Now()
		n.signal(syscall.SIGTERM)
		if status := n.exit(); status != 0 {
			t.Errorf("%s: exit status %d", n.name, status)
		}
		t.Logf("%s stopped in %s", n.name, time.Since(began).Round(time.Millisecond))
		l.untilAcks(killLoad)
		n.start()
		c.untilReady(n)
		l.untilAcks(killLoad)
	}
	// An election without a hand-over takes this long at least, and the load's
	// own deadline is client.DefaultTimeout.
	if longest := l.longest(); longest > 4*time.Second {
		t.Errorf("a write took %s", longest)
	}
	l.check()
}
