package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
)

// Kind says which lab it is; a report has to tell.
type Kind string

// The kinds of labs.
const (
	Namespaces Kind = "namespaces"
	Loopback   Kind = "loopback"
)

// Clients is the host of this process, where the clients are. In a lab of kind
// Loopback it has no links, as no host has.
const Clients = "clients"

// MaxHosts is how many hosts a lab may have, beside Clients. The switch has two
// links for every pair of them.
const MaxHosts = 16

// Errors of labs.
var (
	// ErrForbidden: this machine does not let this user make namespaces. The error
	// that wraps it says why.
	ErrForbidden = errors.New("user namespaces are forbidden here")
	// ErrNoLinks: in this lab links cannot be touched.
	ErrNoLinks = errors.New("a lab on loopback has no links that could be cut")
	// ErrClosed: the lab was closed.
	ErrClosed = errors.New("the lab is closed")
	// ErrUnknownHost: the lab has no such host.
	ErrUnknownHost = errors.New("no such host")
)

// Config is what a lab is made of.
type Config struct {
	// Hosts are their names, 1 to MaxHosts, all different and none of them Clients.
	Hosts []string
	// Seed makes what links do by chance (loss, duplication, jitter) the same for
	// the same frames.
	Seed uint64
}

func (c Config) check() error {
	if len(c.Hosts) == 0 || len(c.Hosts) > MaxHosts {
		return fmt.Errorf("%d hosts: a lab has 1 to %d", len(c.Hosts), MaxHosts)
	}
	seen := map[string]bool{"": true, Clients: true}
	for _, name := range c.Hosts {
		if seen[name] {
			return fmt.Errorf("host %q: a name is not empty, not %q, and of one host only", name, Clients)
		}
		seen[name] = true
	}
	return nil
}

// Host is a place where processes run.
type Host struct {
	Name string
	Addr netip.Addr // reached from all hosts, and from this process
}

// Link is the way from one host to another; the way back is another link.
type Link struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func (l Link) String() string { return l.From + "->" + l.To }

// Lab is a set of hosts. All methods may be called concurrently.
type Lab interface {
	Kind() Kind
	// Hosts are in the order of the Config, without Clients.
	Hosts() []Host
	// Start starts a process on a host. The lab owns cmd.SysProcAttr.
	Start(host string, cmd *exec.Cmd) (*Process, error)
	// Shape has a link follow a rule from now on; the zero Rule is a good link. After
	// it returns, a link that is cut delivers nothing. It fails with ErrNoLinks on
	// loopback.
	Shape(link Link, rule Rule) error
	// Traffic is what a link has carried so far. It fails with ErrNoLinks on
	// loopback.
	Traffic(link Link) (Traffic, error)
	// Close kills all processes, waits for them, and removes the hosts. It may be
	// called again.
	Close() error
}
