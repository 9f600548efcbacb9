package chaos

import (
	"net"
	"net/netip"

	"github.com/capstan-kv/capstan/partition"
)

// book says who is behind an address.
type book struct {
	at map[string]partition.NodeID   // host:port, as key gives it
	on map[string][]partition.NodeID // all nodes of a host
}

func newBook(addresses map[partition.NodeID]string) book {
	b := book{at: map[string]partition.NodeID{}, on: map[string][]partition.NodeID{}}
	for node, address := range addresses {
		if host, whole := key(address); host != "" {
			b.at[whole] = node
			b.on[host] = append(b.on[host], node)
		}
	}
	return b
}

// key spells an address in one way only; "" where it is none.
func key(address string) (host, whole string) {
	if parsed, err := netip.ParseAddrPort(address); err == nil {
		plain := parsed.Addr().Unmap().WithZone("")
		return plain.String(), netip.AddrPortFrom(plain, parsed.Port()).String()
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", ""
	}
	return host, address
}

// exact judges an address that names one socket: that of a packet, or one to
// dial. Where it is nobody's, as behind a port forwarding, the host decides, if all its
// nodes are cut off.
func (s *state) exact(address string) bool {
	if len(s.nodes) == 0 {
		return false
	}
	host, whole := key(address)
	if node, ok := s.book.at[whole]; ok {
		return s.nodes[node]
	}
	for _, node := range s.book.on[host] {
		if !s.nodes[node] {
			return false
		}
	}
	return len(s.book.on[host]) > 0
}

// source judges where an incoming stream comes from, of which only the host tells
// anything: it may be a node that is cut off.
func (s *state) source(address string) bool {
	if len(s.nodes) == 0 {
		return false
	}
	host, _ := key(address)
	for _, node := range s.book.on[host] {
		if s.nodes[node] {
			return true
		}
	}
	return false
}
