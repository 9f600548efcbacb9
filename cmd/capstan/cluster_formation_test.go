//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

// said waits until a node's log says text.
func (n *serving) said(text string) func() error {
	return func() error {
		log, err := os.ReadFile(n.log)
		if err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("%s has not said %q", n.name, text)
		}
		return err
	}
}

// oneCluster waits until all nodes tell of the same cluster with so many alive.
func (c *cluster) oneCluster(alive int, nodes ...*serving) *capstanv1.GetStatusResponse {
	c.t.Helper()
	var first *capstanv1.GetStatusResponse
	c.until("all nodes are in one cluster", func() error {
		first = nil
		for _, n := range nodes {
			s, err := n.status()
			if err != nil {
				return err
			}
			count := 0
			for _, other := range s.GetNodes() {
				if other.GetState() == capstanv1.NodeState_NODE_STATE_ALIVE {
					count++
				}
			}
			if count != alive || s.GetClusterId() == "" {
				return fmt.Errorf("%s sees %d nodes alive in cluster %q", n.name, count, s.GetClusterId())
			}
			if first == nil {
				first = s
			}
			if s.GetClusterId() != first.GetClusterId() {
				return fmt.Errorf("clusters %s and %s", s.GetClusterId(), first.GetClusterId())
			}
		}
		return nil
	})
	return first
}

func TestClusterFormsWhenAllStartAtOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	s := c.oneCluster(3, c.nodes...)
	leads := make(map[string]int)
	for _, p := range s.GetPartitions() {
		leads[p.GetLeader()]++
		if len(p.GetReplicas()) != 3 {
			t.Errorf("partition %d has %d replicas", p.GetId(), len(p.GetReplicas()))
		}
	}
	if len(s.GetPartitions()) != 16 {
		t.Errorf("%d partitions", len(s.GetPartitions()))
	}
	c.until("leaders are spread", func() error {
		s, err := c.nodes[0].status()
		if err != nil {
			return err
		}
		leads := make(map[string]int)
		for _, p := range s.GetPartitions() {
			leads[p.GetLeader()]++
		}
		for node, n := range leads {
			if n > 6 || node == "" {
				return fmt.Errorf("%v", leads)
			}
		}
		return nil
	})
}

// One that starts late, after the others have found each other and wait for it.
func TestClusterFormsWhenOneIsLate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.nodes[0].start()
	c.nodes[1].start()
	for i, n := range c.nodes[:2] {
		c.until("the first two see each other", func() error {
			if status, _, body, err := plain("GET", n.url()+"/readyz", ""); err != nil || status != 503 || !strings.Contains(body, "not part of a cluster yet") {
				return fmt.Errorf("%s says %d %s %v", n.name, status, body, err)
			}
			return n.said(c.nodes[1-i].name + "-")()
		})
	}
	if err := c.write(c.nodes[0], "x", "early"); !client.IsNotApplied(err) {
		t.Errorf("a write before there is a cluster: %v", err)
	}
	c.nodes[2].start()
	c.untilReady(c.nodes...)
	c.oneCluster(3, c.nodes...)
	if err := c.write(c.nodes[2], "x", "late"); err != nil {
		t.Error(err)
	}
}

// An emptied disk makes a new node: it must not vote as the one that it was.
func TestClusterEmptiedDisk(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	before := c.oneCluster(3, c.nodes...)
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprint("key/", i))
	}
	if err := c.write(c.nodes[0], "kept", keys...); err != nil {
		t.Fatal(err)
	}
	emptied := c.nodes[2]
	emptied.kill()
	if err := os.RemoveAll(emptied.dir); err != nil {
		t.Fatal(err)
	}
	emptied.start()
	var was, is *capstanv1.Node
	for i, n := range c.nodes {
		c.until("the old node is dead and the new one is there", func() error {
			s, err := n.status()
			if err != nil {
				return err
			}
			if s.GetClusterId() != before.GetClusterId() {
				return fmt.Errorf("%s is in cluster %q", n.name, s.GetClusterId())
			}
			was, is = nil, nil
			for _, node := range s.GetNodes() {
				if node.GetName() != emptied.name {
					continue
				}
				if strings.Contains(fmt.Sprint(before.GetNodes()), node.GetId()) {
					was = node
				} else {
					is = node
				}
			}
			if was.GetState() != capstanv1.NodeState_NODE_STATE_DEAD || is.GetState() != capstanv1.NodeState_NODE_STATE_ALIVE {
				return fmt.Errorf("%s sees %v and %v", n.name, was, is)
			}
			return nil
		})
		c.until("every key is read through "+n.name, func() error {
			for _, key := range keys {
				ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
				got, err := c.client(n).Get(ctx, []byte(key))
				cancel()
				if err != nil {
					return err
				}
				if !got.Found {
					t.Fatalf("%s is lost", key)
				}
			}
			return c.write(n, fmt.Sprint("after ", i), keys...)
		})
	}
}

// foreground runs one more serve with the settings of n, but for args, and
// waits for its end.
func (n *serving) foreground(args ...string) (stderr string, status int) {
	n.c.t.Helper()
	var own []string // without the pipe, which is not inherited here
	for i := 0; i < len(n.args); i += 2 {
		if n.args[i] != "--exit-with-fd" {
			own = append(own, n.args[i], n.args[i+1])
		}
	}
	_, stderr, status = n.c.command("", append(append([]string{"serve"}, own...), args...)...)
	return stderr, status
}

func TestClusterServeRefuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	c.untilReady(n)
	if err := c.write(n, "x", "first"); err != nil {
		t.Fatal(err)
	}
	free := c.network + "9"
	elsewhere := []string{"--listen", free + ":7820", "--listen-peer", free + ":7821", "--listen-gossip", free + ":7822"}
	fresh := []string{"--data-dir", filepath.Join(c.dir, "fresh")}
	never := []string{"--data-dir", filepath.Join(c.dir, "never")}
	with := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	config := filepath.Join(c.dir, "bad.yaml")
	if err := os.WriteFile(config, []byte("zone: a\nlisten-gosip: 127.0.0.1:7822\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", c.network+"8:7821")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	tests := []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"a second process on the data directory", elsewhere, 3, []string{n.dir, "another process"}},
		{"the API port in use", with(elsewhere, fresh, []string{"--listen", n.ip + ":7820"}), 3, []string{n.ip + ":7820", "in use"}},
		{"the peer port in use", with(elsewhere, fresh, []string{"--listen-peer", c.network + "8:7821"}), 3, []string{c.network + "8:7821", "in use"}},
		{"the gossip port in use", with(elsewhere, fresh, []string{"--listen-gossip", n.ip + ":7822"}), 3, []string{n.ip + ":7822", "in use"}},
		{"off loopback", with(never, []string{"--listen", "0.0.0.0:0"}), 2, []string{"off loopback", "try: --insecure"}},
		{"an unknown flag", with(never, []string{"--listen-gosip", "x"}), 2, []string{"unknown flag: --listen-gosip", "try: --listen-gossip"}},
		{"an unknown key", with(never, []string{"--config", config}), 2, []string{"bad.yaml:2: unknown key \"listen-gosip\"", "try: listen-gossip"}},
	}
	for _, test := range tests {
		stderr, status := n.foreground(test.args...)
		if status != test.status {
			t.Errorf("%s: exit status %d, want %d: %s", test.name, status, test.status, stderr)
		}
		for _, want := range test.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: it did not say %q: %s", test.name, want, stderr)
			}
		}
		if strings.Contains(stderr, "goroutine ") {
			t.Errorf("%s: %s", test.name, stderr)
		}
	}
	if err := c.write(n, "x", "still there"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "never")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was refused for its flags made a data directory: %v", err)
	}
	n.signal(syscall.SIGTERM)
	if status := n.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	record := filepath.Join(n.dir, "node.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(text), `"format": `, `"format": 99`, 1)
	if err := os.WriteFile(record, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	stderr, status := n.foreground()
	if status != 3 || !strings.Contains(stderr, "written by a newer version") {
		t.Errorf("a newer format: exit status %d: %s", status, stderr)
	}
	if again, err := os.ReadFile(record); err != nil || string(again) != newer {
		t.Errorf("a newer format was overwritten: %s %v", again, err)
	}
}

// Neither a data directory of another cluster nor another gossip label gets a
// node in, and both sides go on as they were.
func TestClusterForeignNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0)
	home := c.add("n1", "--bootstrap-expect", "1", "--join", c.network+"1")
	other := c.add("n2", "--bootstrap-expect", "1", "--join", c.network+"2") // a cluster of its own
	label := c.add("n3", "--bootstrap-expect", "0", "--cluster", "another")
	home.start()
	other.start()
	label.start()
	c.untilReady(home, other)
	if err := c.write(other, "of the other", "x"); err != nil {
		t.Fatal(err)
	}
	other.kill()
	other.args = append(other.args, "--join", home.ip)
	other.start()
	c.until("one of the two says no", func() error {
		const no = "a member of another cluster was refused"
		if err := home.said(no)(); err != nil {
			return other.said(no)()
		}
		return nil
	})
	c.untilReady(home, other)
	for _, n := range c.nodes[:2] {
		s := c.oneCluster(1, n)
		if len(s.GetNodes()) != 1 || s.GetNodes()[0].GetName() != n.name {
			t.Errorf("%s sees %v", n.name, s.GetNodes())
		}
	}
	if status, _, body, err := plain("GET", other.url()+"/kv/x", ""); status != 200 || body != "of the other" {
		t.Errorf("the other cluster's data: %d %s %v", status, body, err)
	}
	if status, _, body, err := plain("GET", home.url()+"/kv/x", ""); status != 404 {
		t.Errorf("data of another cluster: %d %s %v", status, body, err)
	}
	if status, _, body, err := plain("GET", label.url()+"/readyz", ""); status != 503 || !strings.Contains(body, "not part of a cluster yet") {
		t.Errorf("another label: %d %s %v", status, body, err)
	}
}
