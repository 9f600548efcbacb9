package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	demoBasePort   = 7820
	demoPartitions = 16
	// demoNodeStep leaves each node ten ports; demoMove is where the next demo
	// goes if the ports are taken, at most demoMoves times.
	demoNodeStep = 10
	demoMove     = 100
	demoMoves    = 20
	// readyTimeout is far above what a start takes on a slow machine.
	readyTimeout = 60 * time.Second
	readyPoll    = 50 * time.Millisecond
	// stopTimeout leaves the children's own bound (orphanGrace) time.
	stopTimeout = orphanGrace + 2*time.Second
	// logTail is how many lines of a dead child's log are shown.
	logTail = 15
)

// demoSettings are the flags of demo.
type demoSettings struct {
	nodes    int
	basePort int
	moved    bool // the port was not asked for and may move
	dataDir  string

	temporary bool // dataDir is deleted at the end
}

func (p *program) demoCommand() *cobra.Command {
	var s demoSettings
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run a cluster of a few nodes on this machine",
		Long: `Runs nodes n1, n2, ... as processes of their own on loopback until Ctrl-C. Node i
listens on the base port + 10*(i-1) (API), the next port (peers) and the one
after it (gossip). Without --base-port, taken ports move the demo up by 100.
The nodes let capstan chaos cut them off from each other.`,
		Example: `  capstan demo
  capstan demo --nodes 5 --data-dir ./demo    # keeps its data
  capstan demo --base-port 9000`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.moved = !cmd.Flags().Changed("base-port")
			return p.demo(cmd.Context(), s)
		},
	}
	cmd.Flags().IntVar(&s.nodes, "nodes", 3, "how many nodes, 1 to 9")
	cmd.Flags().IntVar(&s.basePort, "base-port", demoBasePort, "the first node's API port")
	cmd.Flags().StringVar(&s.dataDir, "data-dir", "", "keep the data in this `directory` (default: a temporary one)")
	return cmd
}

// demoNode is where a node of the demo is.
type demoNode struct {
	name              string
	api, peer, gossip int // ports
}

func demoNodes(count, base int) []demoNode {
	nodes := make([]demoNode, count)
	for i := range nodes {
		at := base + demoNodeStep*i
		nodes[i] = demoNode{name: fmt.Sprintf("n%d", i+1), api: at, peer: at + 1, gossip: at + 2}
	}
	return nodes
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (n demoNode) url() string { return "http://" + local(n.api) }

func (p *program) demo(ctx context.Context, s demoSettings) (err error) {
	if s.nodes < 1 || s.nodes > 9 {
		return usageErrorf("--nodes %d: 1 to 9 are possible", s.nodes)
	}
	if s.basePort < 1 || s.basePort+demoNodeStep*s.nodes > 65535 {
		return usageErrorf("--base-port %d leaves no room for %d nodes", s.basePort, s.nodes)
	}
	p.neverWait() // whoever reads what the demo prints may go away: the nodes stay
	nodes, err := p.freePorts(&s)
	if err != nil {
		return err
	}
	began := time.Now()
	if s.dataDir == "" {
		s.dataDir, s.temporary = fmt.Sprintf("./demo-data-%d", os.Getpid()), true
		if err := os.Mkdir(s.dataDir, 0o700); err != nil {
			return failuref("%w", err)
		}
		defer func() {
			if e := os.RemoveAll(s.dataDir); e != nil {
				err = errors.Join(err, failuref("%w", e))
			}
		}()
	} else if err := os.MkdirAll(s.dataDir, 0o700); err != nil {
		return failuref("%w", err)
	}
	family, err := startFamily(s, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, family.stop()) }()
	kept := "(temporary)"
	if !s.temporary {
		kept = "(kept)"
	}
	fmt.Fprintf(p.stdout, "capstan demo: %s, %d partitions, %s each, chaos enabled, data in %s %s\n", count(s.nodes, "node"), demoPartitions,
		count(min(3, s.nodes), "replica"), s.dataDir, kept)
	for i, n := range nodes {
		fmt.Fprintf(p.stdout, "  %s  %s  peer %d  gossip %d  pid %d\n", n.name, n.url(), n.peer, n.gossip, family.children[i].cmd.Process.Pid)
	}
	if err := p.untilReady(ctx, family); err != nil || ctx.Err() != nil {
		return err
	}
	what := "Ctrl-C stops the nodes and deletes the data."
	if !s.temporary {
		what = "Ctrl-C stops the nodes and keeps the data."
	}
	fmt.Fprintf(p.stdout, "ready in %.1fs. %s In another terminal:\n  %scapstan status\n", time.Since(began).Seconds(), what, exports(s.basePort))
	return p.watch(ctx, family)
}

func count(n int, what string) string { return fmt.Sprintf("%d %s%s", n, what, plural(n)) }

// exports is what a shell needs to know first: where the binary is, and where
// the nodes are if not at the default.
func exports(base int) string {
	var out string
	exe, err := os.Executable()
	if found, lookErr := exec.LookPath("capstan"); err == nil && (lookErr != nil || !sameFile(found, exe)) {
		dir := filepath.Dir(exe)
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, dir); err == nil && !strings.HasPrefix(rel, "..") {
				dir = filepath.Join("$PWD", rel)
			}
		}
		out = fmt.Sprintf("export PATH=\"%s:$PATH\"; ", dir)
	}
	if base != demoBasePort {
		out += fmt.Sprintf("export %s=http://%s; ", endpointsVariable, local(base))
	}
	return out
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// freePorts finds ports that nobody listens on. Ports that were asked for do
// not move.
func (p *program) freePorts(s *demoSettings) ([]demoNode, error) {
	first := s.basePort
	for range demoMoves {
		nodes := demoNodes(s.nodes, s.basePort)
		taken := takenPort(nodes)
		if taken == 0 {
			if s.basePort != first {
				fmt.Fprintf(p.stderr, "ports from %d on are in use: the demo moves up to %d\n", first, s.basePort)
			}
			return nodes, nil
		}
		if !s.moved {
			return nil, failuref("port %d is in use", taken).hint("another --base-port, or none")
		}
		s.basePort += demoMove
	}
	return nil, failuref("ports are in use from %d to %d", first, s.basePort)
}

// takenPort is a port of nodes that somebody listens on, or 0.
func takenPort(nodes []demoNode) int {
	for _, n := range nodes {
		for _, port := range []int{n.api, n.peer, n.gossip} {
			l, err := net.Listen("tcp", local(port))
			if err != nil {
				return port
			}
			_ = l.Close()
		}
		u, err := net.ListenPacket("udp", local(n.gossip))
		if err != nil {
			return n.gossip
		}
		_ = u.Close()
	}
	return 0
}

// untilReady waits until every node serves linearizable requests.
func (p *program) untilReady(ctx context.Context, f *family) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	asker := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	progress := newProgress(p.stderr)
	defer progress.clear()
	ready := 0
	for ready < len(f.children) {
		if isReady(ctx, asker, f.children[ready].node) {
			ready++
			continue
		}
		progress.show("waiting: %d of %d nodes ready", ready, len(f.children))
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				progress.clear()
				return failuref("not ready after %s; %s says:\n%s", readyTimeout, f.children[ready].node.name, f.children[ready].tail())
			}
			return nil // Ctrl-C
		case c := <-f.exits:
			progress.clear()
			f.gone++
			return failuref("%s stopped before the cluster was ready: %s; its log says:\n%s", c.node.name, c.state(), c.tail())
		case <-tick.C:
		}
	}
	return nil
}

func isReady(ctx context.Context, asker *http.Client, n demoNode) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/readyz?level=linearizable", nil)
	if err != nil {
		return false
	}
	answer, err := asker.Do(r)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// watch goes on until Ctrl-C or until the last node is gone. A node may die:
// that is what one comes here to see.
func (p *program) watch(ctx context.Context, f *family) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-f.exits:
			f.gone++
			left := len(f.children) - f.gone
			if left == 0 {
				return failuref("%s stopped: %s; no node is left; its log says:\n%s", c.node.name, c.state(), c.tail())
			}
			fmt.Fprintf(p.stderr, "%s stopped: %s; %d of %d nodes go on\n", c.node.name, c.state(), left, len(f.children))
		}
	}
}
