package node

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/replication/memnet"
)

// slowGossip takes its time to open the gossip socket, as a machine may whose
// name service does not answer.
type slowGossip struct {
	*memnet.Host
	delay time.Duration
}

func (s slowGossip) ListenPacket(addr string) (net.PacketConn, error) {
	time.Sleep(s.delay)
	return s.Host.ListenPacket(addr)
}

// A node that comes back leads its control group alone soon after it opened
// it; what it then asks of gossip must be there.
func TestGossipThatIsSlowToOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, disk := memnet.New(), vfs.NewMem()
		for _, delay := range []time.Duration{0, 10 * time.Second} {
			n, err := Open(t.Context(), Config{
				Name: "n1", DataDir: "data", Partitions: 1, ReplicationFactor: 1, FS: disk,
				Listen: "127.0.0.1:7820", ListenPeer: "127.0.0.1:7821", ListenGossip: "127.0.0.1:7822",
				Network: slowGossip{network.Host("m1"), delay},
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 600 {
				if n.ring().Placed() {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if !n.ring().Placed() {
				t.Fatal("nothing was placed in a minute")
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Close may come at any moment of a node's first start, also while it founds
// its cluster, and the next start goes on from there.
func TestCloseWhileFounding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for delay := time.Duration(0); delay < 4*time.Second; delay += 31 * time.Millisecond {
			network, disk := memnet.New(), vfs.NewMem()
			for _, delay := range []time.Duration{delay, 20 * time.Second} {
				n, err := Open(t.Context(), Config{
					Name: "n1", DataDir: "data", Partitions: 1, ReplicationFactor: 1, FS: disk,
					Listen: "127.0.0.1:7820", ListenPeer: "127.0.0.1:7821", ListenGossip: "127.0.0.1:7822",
					Network: network.Host("m1"),
				})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(delay)
				if delay > 10*time.Second && !n.ring().Placed() {
					t.Error("nothing was placed in time")
				}
				if err := n.Close(); err != nil {
					t.Errorf("closed after %v: %v", delay, err)
				}
				if err := n.Err(); err != nil {
					t.Errorf("closed after %v: it could not go on: %v", delay, err)
				}
			}
		}
	})
}
