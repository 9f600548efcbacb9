package membership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/serf/serf"
)

const (
	// joinIntervalMin and joinIntervalMax bound the pause between two looks at the
	// join addresses: short while a cluster starts, long enough to cost nothing.
	joinIntervalMin = 250 * time.Millisecond
	joinIntervalMax = 10 * time.Second
	// resolveTimeout bounds one look-up of a name.
	resolveTimeout = 5 * time.Second
	// joinsAtOnce bounds the join addresses that are asked at the same time, so that
	// one that does not answer does not hold up the others.
	joinsAtOnce = 8
	// maxResolved bounds the addresses taken of one name.
	maxResolved = 32
)

// keepJoining tries every join address that is not an alive member, for ever.
func (m *Membership) keepJoining(ctx context.Context) {
	pause := joinIntervalMin
	first := true
	for {
		missing := m.joinRound(ctx)
		if first {
			first = false
			close(m.settled)
			m.changed()
		}
		if missing == 0 {
			pause = joinIntervalMax
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, joinIntervalMax)
	}
}

// Rejoin exchanges states at once, in the background, with whoever is at these
// gossip addresses, host:port, and not alive: they were out of reach on purpose.
// Those that do not answer are found again as ever.
func (m *Membership) Rejoin(addresses []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(addresses) == 0 {
		return
	}
	m.tasks.Go(func() { m.joinAll(m.ctx, addresses) })
}

// joinRound tries each join address once and says how many did not answer.
func (m *Membership) joinRound(ctx context.Context) (missing int) {
	return m.joinAll(ctx, m.config.Join)
}

func (m *Membership) joinAll(ctx context.Context, addresses []string) (missing int) {
	var mu sync.Mutex
	var tried sync.WaitGroup
	permits := make(chan struct{}, joinsAtOnce)
	for _, address := range addresses {
		permits <- struct{}{}
		tried.Go(func() {
			defer func() { <-permits }()
			if !m.join(ctx, address) {
				mu.Lock()
				defer mu.Unlock()
				missing++
			}
		})
	}
	tried.Wait()
	return missing
}

// join resolves one join address and exchanges states with what it names, unless
// that is this node or an alive member.
func (m *Membership) join(ctx context.Context, address string) bool {
	host, port, err := splitJoin(address)
	if err != nil {
		return true // checked by Open
	}
	ips := []net.IP{net.ParseIP(host)}
	if ips[0] == nil {
		lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
		ips, err = m.config.Resolve(lookup, host)
		cancel()
		if err == nil && len(ips) == 0 {
			err = fmt.Errorf("%s has no address", host)
		}
		if err != nil {
			m.joinFailed(ctx, address, err)
			return false
		}
	}
	complete := true
	for _, ip := range ips[:min(len(ips), maxResolved)] {
		if ctx.Err() != nil {
			return false
		}
		target := net.JoinHostPort(ip.String(), strconv.Itoa(port))
		if target == m.Addr() || m.aliveAt(target) {
			continue
		}
		// Not serf.Join: it takes one at a time, each as long as streamTimeout, and
		// the older news that it would hide are user events, which are not used.
		if _, err := m.serf.Memberlist().Join([]string{target}); err != nil {
			m.joinFailed(ctx, target, err)
			complete = false
			continue
		}
		m.events.send(Joined{target})
		m.announce(target)
	}
	return complete
}

// announce tells the others, once, through one that has just answered, that this
// node is there to stay. It matters to those who have heard that it leaves: if it was
// killed before it had left, and is back before they miss it, nothing else takes that
// back, and they would show it as left for ever.
func (m *Membership) announce(through string) {
	if !m.announced.CompareAndSwap(false, true) {
		return
	}
	if _, err := m.serf.Join([]string{through}, true); err != nil {
		m.announced.Store(false) // the next one that answers
	}
}

func (m *Membership) joinFailed(ctx context.Context, address string, err error) {
	if ctx.Err() == nil {
		m.events.send(JoinFailed{address, err})
	}
}

func (m *Membership) aliveAt(address string) bool {
	for _, member := range m.serf.Members() {
		if member.Status == serf.StatusAlive && gossipAddr(member) == address {
			return true
		}
	}
	return false
}

// advertise finds out what others are to be told.
func advertise(t *transport, c Config) error {
	bindHost, _, err := net.SplitHostPort(t.streams.Addr().String())
	if err != nil {
		return err
	}
	host := bindHost
	if c.Advertise != "" {
		name, portText, err := net.SplitHostPort(c.Advertise)
		if err != nil {
			name = c.Advertise // no port: the bound one
		} else if t.port, err = strconv.Atoi(portText); err != nil || t.port < 1 || t.port > 65535 {
			return fmt.Errorf("advertised gossip address %q: port %q", c.Advertise, portText)
		}
		host = name
	}
	ip := net.ParseIP(host)
	if own, ok := c.Network.(interface{ IP() net.IP }); ok && (ip == nil || ip.IsUnspecified()) && host == bindHost {
		ip = own.IP()
	}
	switch {
	case ip == nil:
		ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
		defer cancel()
		ips, err := c.Resolve(ctx, host)
		if err == nil && len(ips) == 0 {
			err = fmt.Errorf("%s has no address", host)
		}
		if err != nil {
			return fmt.Errorf("advertised gossip address: %w", err)
		}
		ip = ips[0]
	case ip.IsUnspecified():
		if ip = privateIP(); ip == nil {
			return fmt.Errorf("gossip listens on every address (%s) and finds no private one to tell others: name one to advertise", c.Bind)
		}
	}
	if ip4 := ip.To4(); ip4 != nil {
		ip = ip4
	}
	t.ip = ip
	return nil
}

// privateIP is the machine's first private address, as RFC 1918 and 4193 say.
func privateIP() net.IP {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, addr := range addrs {
		if network, ok := addr.(*net.IPNet); ok && network.IP.IsPrivate() {
			return network.IP
		}
	}
	return nil
}
