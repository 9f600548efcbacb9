package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
)

// loopback is a lab whose hosts are addresses only.
type loopback struct {
	hosts     []Host
	parent    *thread // of all processes
	processes processes
}

// OpenLoopback makes a lab on 127/8, in a /24 that nobody listens on.
func OpenLoopback(c Config) (Lab, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	l := &loopback{}
	network, err := freeNetwork()
	if err != nil {
		return nil, err
	}
	for i, name := range c.Hosts {
		network[3] = byte(i + 1)
		l.hosts = append(l.hosts, Host{Name: name, Addr: netip.AddrFrom4(network)})
	}
	l.parent = newThread()
	return l, nil
}

// freeNetwork chooses by chance, and not by the seed: labs may be open side by
// side, and there are 64 thousand networks.
func freeNetwork() ([4]byte, error) {
	var err error
	for range 100 {
		network := [4]byte{127, byte(1 + rand.IntN(254)), byte(1 + rand.IntN(254)), 1}
		var l net.Listener
		if l, err = net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4(network), 7820).String()); err == nil {
			l.Close()
			return network, nil
		}
	}
	return [4]byte{}, fmt.Errorf("no free network in 127/8: %w", err)
}

func (l *loopback) Kind() Kind    { return Loopback }
func (l *loopback) Hosts() []Host { return append([]Host(nil), l.hosts...) }

func (l *loopback) Start(host string, cmd *exec.Cmd) (*Process, error) {
	for _, h := range l.hosts {
		if h.Name == host {
			return l.processes.start(l.parent, host, cmd)
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknownHost, host)
}

func (l *loopback) Shape(Link, Rule) error        { return ErrNoLinks }
func (l *loopback) Traffic(Link) (Traffic, error) { return Traffic{}, ErrNoLinks }

func (l *loopback) Close() error {
	if l.processes.close() {
		l.parent.stop()
	}
	return nil
}
