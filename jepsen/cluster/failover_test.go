//go:build linux

package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// leaderOf is the node that leads a key, as far as another knows.
func leaderOf(t *testing.T, c *cluster.Cluster, asked *cluster.Node, key string) *cluster.Node {
	t.Helper()
	body, err := json.Marshal(map[string][]byte{"key": []byte(key)})
	must(t, err)
	answer, err := http.Post(asked.URL()+"/capstan.v1.ClusterService/LocateKey", "application/json", bytes.NewReader(body))
	must(t, err)
	defer answer.Body.Close()
	var place struct{ Leader string }
	must(t, json.NewDecoder(answer.Body).Decode(&place))
	n := c.Node(place.Leader)
	if n == nil {
		t.Fatalf("%s is led by %q, says %s", key, place.Leader, asked.Name)
	}
	return n
}

// A node dies, is paused, is cut off: within two election timeouts what it led is
// written again through the others. The fault is over before the next one begins.
func TestFailover(t *testing.T) {
	const (
		bound = 3 * time.Second
		// allowance is for a machine that runs five nodes and other tests.
		allowance = 2 * time.Second
		keys      = 32 // all partitions are among them
	)
	c, l := newCluster(t, lab.OpenNamespaces, 5, "--partitions", "8", "--replication-factor", "3")
	must(t, c.Start(patiently(t)))
	nodes := c.Nodes()
	cut := func(n *cluster.Node, rule lab.Rule) error {
		var failures []error
		for _, other := range nodes {
			if other != n {
				failures = append(failures, l.Shape(lab.Link{From: n.Name, To: other.Name}, rule), l.Shape(lab.Link{From: other.Name, To: n.Name}, rule))
			}
		}
		return errors.Join(failures...)
	}
	for _, fault := range []struct {
		name       string
		begin, end func(*cluster.Node) error
	}{
		{"killed", (*cluster.Node).Kill, (*cluster.Node).Start},
		{"paused", (*cluster.Node).Pause, (*cluster.Node).Resume},
		{"cut off", func(n *cluster.Node) error { return cut(n, lab.Rule{Cut: true}) }, func(n *cluster.Node) error { return cut(n, lab.Rule{}) }},
		{"killed and started again", func(n *cluster.Node) error { return errors.Join(n.Kill(), n.Start()) }, func(*cluster.Node) error { return nil }},
	} {
		for k := range keys {
			put(t, nodes[k%len(nodes)], fmt.Sprint("key", k), "before")
		}
		victim := leaderOf(t, c, nodes[0], "key0")
		others := slices.DeleteFunc(slices.Clone(nodes), func(n *cluster.Node) bool { return n == victim })
		must(t, fault.begin(victim))
		begun := time.Now()
		took := make([]time.Duration, keys)
		var clients sync.WaitGroup
		for k := range keys {
			clients.Go(func() {
				for time.Since(begun) < patience {
					_, err := say(others[k%len(others)], http.MethodPut, fmt.Sprintf("/kv/key%d?timeout=300ms", k), "after")
					if err == nil {
						break
					}
				}
				took[k] = time.Since(begun)
			})
		}
		clients.Wait()
		slices.Sort(took)
		t.Logf("%s is %s: half of the keys written after %v, all after %v", victim.Name, fault.name, took[keys/2], took[keys-1])
		if took[keys-1] < time.Second {
			t.Errorf("%s is %s: it led nothing", victim.Name, fault.name)
		}
		if took[keys-1] > bound+allowance {
			t.Errorf("%s is %s: keys written only after %v, want %v", victim.Name, fault.name, took[keys-1], bound)
		}
		must(t, fault.end(victim))
		must(t, c.AwaitReady(patiently(t)))
	}
	noTrouble(t, c)
}
