package replication

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A follower that needs a snapshot comes back while the group is written to, however long
// the transfer takes in relation to what the log holds: the log is kept from the
// snapshot on. One transfer is enough. Until it has what the leader had when it came back,
// it does not count as caught up.
func TestFollowerCatchesUpUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := wholeCluster(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		leader, follower, machine := nodes[0].groups[0], nodes[2].groups[0], nodes[2].machines[0]
		// A cut every five seconds, down to 64 entries, stands for one every 64 MiB.
		write := func(duration time.Duration, each func()) {
			cut := time.Now()
			for start, i := time.Now(), 0; time.Since(start) < duration; i++ {
				if _, err := leader.Propose(ctx, fmt.Appendf(nil, "k=%d", i)); err != nil {
					t.Fatal(err)
				}
				if time.Since(cut) > 5*time.Second {
					cut = time.Now()
					if err := leader.CutLog(minTrailingEntries); err != nil {
						t.Fatal(err)
					}
				}
				each()
				time.Sleep(10 * time.Millisecond)
			}
		}
		network.Isolate("n2")
		write(20*time.Second, func() {})
		machine.mu.Lock()
		machine.staging = 12 * time.Second // a large state
		machine.mu.Unlock()
		network.Heal()
		healed, ready := time.Now(), time.Duration(0)
		write(time.Minute, func() {
			if ready == 0 && follower.CaughtUp() && !follower.leaderless() {
				ready = time.Since(healed)
			}
		})
		machine.mu.Lock()
		staged := machine.staged
		machine.mu.Unlock()
		if behind := leader.raft.LastIndex() - follower.raft.LastIndex(); staged != 1 || behind > maxAppendEntries || ready < 10*time.Second {
			t.Errorf("after a minute: %d whole states received, %d entries behind, caught up after %v", staged, behind, ready)
		}
		// What was kept for it is let go.
		if err := leader.CutLog(minTrailingEntries); err != nil {
			t.Fatal(err)
		}
		if n := leader.heldEntries(0, 0); n != 0 {
			t.Errorf("%d entries are still kept", n)
		}
	})
}
