package memnet

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Conditions are the properties of one directed link, other than being cut.
type Conditions struct {
	// Latency is how long each byte or packet travels; Jitter is added to it,
	// evenly drawn from [0, Jitter). Streams keep their order, packets do not.
	Latency, Jitter time.Duration
	// Drop is the share of packets that are lost, 0 to 1. Streams lose nothing.
	Drop float64
}

type direction struct{ from, to string }

// Network connects hosts. The zero value is not usable: call [New].
type Network struct {
	mu         sync.Mutex
	rng        *rand.Rand
	hosts      map[string]*Host
	byIP       map[string]*Host
	cuts       map[direction]bool
	isolated   map[string]bool
	conditions map[direction]Conditions
	everywhere Conditions
	conns      map[*Conn]struct{} // ends that are neither closed nor reset
	dialing    map[*sync.Cond]struct{}
}

// New is a network without hosts whose jitter and drops follow a fixed seed.
func New() *Network { return NewSeeded(1) }

// NewSeeded is [New] with a seed for jitter and drops.
func NewSeeded(seed uint64) *Network {
	return &Network{
		rng:        rand.New(rand.NewPCG(seed, seed)),
		hosts:      map[string]*Host{},
		byIP:       map[string]*Host{},
		cuts:       map[direction]bool{},
		isolated:   map[string]bool{},
		conditions: map[direction]Conditions{},
		conns:      map[*Conn]struct{}{},
		dialing:    map[*sync.Cond]struct{}{},
	}
}

// Host is the host of that name, made if it is new. A host is also reached by
// its [Host.IP].
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[name]; h != nil {
		return h
	}
	h := &Host{
		net: n, name: name,
		nextPort:  firstFreePort,
		listeners: map[int]*listener{},
		packets:   map[int]*packetConn{},
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		h.ip = ip.AsSlice()
	} else {
		i := len(n.hosts) + 1
		h.ip = net.IPv4(10, 77, byte(i>>8), byte(i)).To4()
	}
	n.hosts[name] = h
	n.byIP[h.ip.String()] = h
	return h
}

// Cut stops everything between a and b, both ways.
func (n *Network) Cut(a, b string) {
	n.change(func() { n.cuts[direction{a, b}], n.cuts[direction{b, a}] = true, true })
}

// CutOneWay stops what from sends to to; the other way still works.
func (n *Network) CutOneWay(from, to string) {
	n.change(func() { n.cuts[direction{from, to}] = true })
}

// Isolate cuts a from all other hosts, also from those that come later.
func (n *Network) Isolate(a string) { n.change(func() { n.isolated[a] = true }) }

// Heal ends all cuts. What was in flight arrives, dials that hang go on.
func (n *Network) Heal() { n.change(func() { clear(n.cuts); clear(n.isolated) }) }

// HealBetween ends the cuts between a and b, but not an isolation of either.
func (n *Network) HealBetween(a, b string) {
	n.change(func() { delete(n.cuts, direction{a, b}); delete(n.cuts, direction{b, a}) })
}

// SetConditions sets those of one directed link, for what is sent from now on.
func (n *Network) SetConditions(from, to string, c Conditions) {
	n.change(func() { n.conditions[direction{from, to}] = c })
}

// SetConditionsEverywhere sets those of all links that have none of their own.
// The loopback of a host never has any.
func (n *Network) SetConditionsEverywhere(c Conditions) { n.change(func() { n.everywhere = c }) }

// Reset breaks all connections between a and b, on both sides and at once,
// even across a cut.
func (n *Network) Reset(a, b string) {
	n.change(func() {
		for c := range n.conns {
			if (c.local.host == a && c.remote.host == b) || (c.local.host == b && c.remote.host == a) {
				c.resetLocked()
			}
		}
	})
}

// Crash ends all that a process on the host had open: listeners are closed,
// connections reset. A peer behind a cut learns of it after the heal. The host
// can be used again at once, as after a restart.
func (n *Network) Crash(host string) {
	n.change(func() {
		h := n.hosts[host]
		if h == nil {
			return
		}
		for _, l := range h.listeners {
			l.closeLocked()
		}
		for _, p := range h.packets {
			p.closeLocked()
		}
		for c := range n.conns {
			if c.local.host == host {
				c.resetLocked()
				c.out.sendResetLocked()
			}
		}
	})
}

// change alters the network and delivers what became deliverable.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	for c := range n.conns {
		c.in.arriveLocked()
	}
	for wake := range n.dialing {
		wake.Broadcast()
	}
}

func (n *Network) cutLocked(from, to string) bool {
	return from != to && (n.cuts[direction{from, to}] || n.isolated[from] || n.isolated[to])
}

func (n *Network) conditionsLocked(from, to string) Conditions {
	if from == to {
		return Conditions{}
	}
	if c, ok := n.conditions[direction{from, to}]; ok {
		return c
	}
	return n.everywhere
}

// delayLocked draws how long something sent now travels.
func (n *Network) delayLocked(from, to string) time.Duration {
	c := n.conditionsLocked(from, to)
	d := c.Latency
	if c.Jitter > 0 {
		d += time.Duration(n.rng.Int64N(int64(c.Jitter)))
	}
	return d
}
