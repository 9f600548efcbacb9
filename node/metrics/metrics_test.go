package metrics_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/node/metrics"
)

// TestScrape checks the names that dashboards rely on, and that a second
// scrape sees new figures.
func TestScrape(t *testing.T) {
	commit := uint64(7)
	r := metrics.New(func() metrics.Snapshot {
		return metrics.Snapshot{
			Node: "n1-k3f9", Version: "v1", CutPeers: 2, CutFor: 38500 * time.Millisecond,
			HeldBack:   []metrics.HeldBack{{Node: "n3", Partitions: 4}},
			Partitions: []metrics.Partition{{ID: "3", Group: metrics.Group{Leader: true, HasLeader: true, Commit: commit, AllVoters: 3, ReachableVoters: 2}}},
			Databases:  []metrics.Database{{Name: "log", WALBytes: 12}},
			Peers:      []metrics.Peer{{Name: "n2", Connected: true, FramesSent: 5}},
		}
	})
	r.Observe("Put", "linearizable", "ok", 3*time.Millisecond)
	scrape := func() string {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	first := scrape()
	for _, line := range []string{
		`capstan_requests_total{code="ok",level="linearizable",method="Put"} 1`,
		`capstan_request_duration_seconds_bucket{level="linearizable",method="Put",le="0.005"} 1`,
		`capstan_request_duration_seconds_bucket{level="linearizable",method="Put",le="0.0025"} 0`,
		`capstan_node_info{node="n1-k3f9",version="v1"} 1`,
		"capstan_chaos_cut_peers 2", "capstan_chaos_cut_seconds 38.5", `capstan_tombstones_held_back{peer="n3"} 4`,
		`capstan_raft_leader{partition="3"} 1`,
		`capstan_raft_commit_index{partition="3"} 7`,
		`capstan_raft_reachable_voters{partition="3"} 2`,
		`capstan_raft_has_leader{partition="control"} 0`,
		`capstan_pebble_wal_bytes_total{database="log"} 12`,
		`capstan_peer_frames_total{direction="sent",peer="n2"} 5`,
		"go_goroutines ", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(first, line) {
			t.Errorf("not in /metrics: %s", line)
		}
	}
	commit = 8
	if second := scrape(); !strings.Contains(second, `capstan_raft_commit_index{partition="3"} 8`) {
		t.Error("a second scrape shows the first one's figures")
	}
}
