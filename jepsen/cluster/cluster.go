package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// Ports of every node, at the address of its host.
const (
	APIPort    = 7820
	peerPort   = 7821
	gossipPort = 7822
)

// Config says what a cluster is made of.
type Config struct {
	// Lab has the hosts. Each runs a node of its name, so names are as those of
	// nodes: a-z, 0-9 and inner dashes. The caller closes it, after the cluster.
	Lab lab.Lab
	// Binary is the capstan program.
	Binary string
	// Dir holds logs and data. It must exist, and is not removed.
	Dir string
	// Args are further flags of capstan serve, the same for all nodes.
	Args []string
	// Env are further variables, NAME=value, the same for all nodes. No other
	// variable that capstan would read reaches them.
	Env []string
	// FaultBuild says that Binary is built with planted faults, so that Node.Bend
	// can bend clocks and disks.
	FaultBuild bool
	// Volatile has disks lose what was not synced when a process is killed. Only
	// with FaultBuild, and for as long as the cluster is there.
	Volatile bool
}

// Cluster is nodes that know each other. All methods may be called concurrently.
type Cluster struct {
	nodes []*Node
}

// New prepares the nodes and starts none.
func New(config Config) (*Cluster, error) {
	binary, err := filepath.Abs(config.Binary)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory: %w", dir, err)
	}
	if config.Volatile && !config.FaultBuild {
		return nil, ErrNoFaultBuild
	}
	hosts := config.Lab.Hosts()
	var join []string
	for _, h := range hosts {
		join = append(join, at(h, gossipPort))
	}
	c := &Cluster{}
	for _, h := range hosts {
		n := &Node{
			Host: h, LogFile: filepath.Join(dir, h.Name+".log"), DataDir: filepath.Join(dir, h.Name),
			lab: config.Lab, binary: binary, env: config.Env,
		}
		if config.FaultBuild {
			n.bends = &bends{file: filepath.Join(dir, h.Name+".fault.json"), volatile: config.Volatile}
			n.env = append(slices.Clone(config.Env), controlVariable+"="+n.bends.file)
			if err := n.bends.write(Control{}); err != nil {
				return nil, err
			}
		}
		n.args = []string{
			"serve", "--name", h.Name, "--data-dir", n.DataDir,
			"--listen", at(h, APIPort), "--listen-peer", at(h, peerPort), "--listen-gossip", at(h, gossipPort),
			"--join", strings.Join(join, ","), "--bootstrap-expect", strconv.Itoa(len(hosts)), "--cluster", "jepsen",
		}
		if config.Lab.Kind() == lab.Loopback {
			n.args = append(n.args, "--enable-chaos") // the only cuts that are left
		} else {
			n.args = append(n.args, "--insecure") // nobody else is on that network
		}
		n.args = append(n.args, config.Args...)
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

func at(h lab.Host, port int) string { return h.Addr.String() + ":" + strconv.Itoa(port) }

// Nodes are in the order of the lab's hosts.
func (c *Cluster) Nodes() []*Node { return append([]*Node(nil), c.nodes...) }

// Node is the one of a name; nil if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// URLs are those of all nodes' client API.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// Start starts all nodes that do not run and waits until they serve linearizable
// requests.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := n.Start(); err != nil && !errors.Is(err, ErrRunning) {
			return err
		}
	}
	return c.AwaitReady(ctx)
}

// AwaitReady waits until all nodes serve linearizable requests. It fails as soon
// as one of them ends.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	one, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.each(func(n *Node) error {
		err := n.AwaitReady(one)
		if err != nil {
			cancel(err)
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		return context.Cause(one) // the others only stopped waiting
	}
	return err
}

// Stop has all nodes end in order, at once. What has not ended with ctx is killed,
// which is an error.
func (c *Cluster) Stop(ctx context.Context) error {
	return c.each(func(n *Node) error { return n.Stop(ctx) })
}

// Close kills all nodes.
func (c *Cluster) Close() error {
	return c.each(func(n *Node) error { return n.Kill() })
}

func (c *Cluster) each(do func(*Node) error) error {
	failures := make([]error, len(c.nodes))
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		wait.Go(func() { failures[i] = do(n) })
	}
	wait.Wait()
	return errors.Join(failures...)
}
