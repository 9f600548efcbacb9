//go:build linux

package nemesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/cluster"
	"github.com/capstan-kv/capstan/jepsen/lab"
)

// patience bounds each wait for a real cluster, which takes seconds on an idle
// machine.
const patience = time.Minute

var web = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Real nodes feel each kind of fault, bear it, and are as they were when it is over.
func TestRealNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("three processes for a minute")
	}
	hosts, err := lab.OpenNamespaces(lab.Config{Hosts: nodes(3), Seed: 1})
	if errors.Is(err, lab.ErrForbidden) {
		t.Skip("NOT TESTED: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer hosts.Close()
	real, err := cluster.New(cluster.Config{
		Lab: hosts, Binary: os.Getenv(binaryVariable), Dir: t.TempDir(), FaultBuild: true, Volatile: true,
		Args: []string{"--partitions", "2", "--replication-factor", "3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	ready := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := real.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ready()
	defer load(real)()

	target := Target{Network: hosts, Machines: Machines(real), Leader: func(ctx context.Context, p int) (string, error) { return leader(ctx, real, p) }}
	for _, kind := range []string{
		"cut-leader", "flapping", "one-way-leader", "isolate", "lossy", "kill-leader", "rolling-restart", "pause-leader", "pause-majority",
		"clock-jump", "clock-drift", "slow-fsync", "fsync-error", "disk-full", "power-cut", "wipe",
	} {
		c := everything(kind)
		c.Nodes, c.Partitions, c.Length, c.Quiet, c.Fault = nodes(3), 2, second(1.6), second(0.2), second(1.2)
		s, err := Plan(c)
		if err != nil {
			t.Fatal(err)
		}
		effects, err := Run(t.Context(), target, s)
		if err != nil || len(effects) != 1 {
			t.Fatalf("%s: %v, %v", kind, effects, err)
		}
		t.Log(effects[0])
		if !effects[0].Felt() {
			t.Errorf("not felt: %s", effects[0])
		}
		ready() // none was left down
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := real.Stop(ctx); err != nil {
		t.Error(err)
	}
	if trouble, err := real.Trouble(); err != nil || len(trouble) > 0 {
		t.Errorf("trouble: %v, %v", trouble, err)
	}
}

// load has clients write through all nodes until it is told to stop. Nobody cares
// what they are answered.
func load(c *cluster.Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for _, n := range c.Nodes() {
		clients.Go(func() {
			for i := 0; until(ctx, time.Now().Add(20*time.Millisecond)); i++ {
				level := []string{"", "?consistency=eventual"}[i%2]
				_, _ = ask(ctx, n, http.MethodPut, fmt.Sprintf("/kv/%s-%d%s", n.Name, i%8, level), "x")
			}
		})
	}
	return func() {
		cancel()
		clients.Wait()
	}
}

func ask(ctx context.Context, n *cluster.Node, method, what, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, n.URL()+what, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := web.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// leader asks one node after the other.
func leader(ctx context.Context, c *cluster.Cluster, partition int) (string, error) {
	var failed error
	for _, n := range c.Nodes() {
		text, err := ask(ctx, n, http.MethodPost, "/capstan.v1.ClusterService/GetStatus", "{}")
		var status struct {
			Partitions []struct {
				ID     int
				Leader string
			}
		}
		if err == nil {
			err = json.Unmarshal(text, &status)
		}
		failed = errors.Join(failed, err)
		for _, p := range status.Partitions {
			if p.ID == partition && p.Leader != "" {
				return p.Leader, nil
			}
		}
	}
	return "", failed
}
