package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

const (
	// DefaultPort is where gossip is expected if a join address names no port.
	DefaultPort = 7822
	// maxJoin bounds the join list; a name may resolve to many.
	maxJoin = 256
	// maxTagBytes is what serf lets a node say of itself, encoded.
	maxTagBytes = 512
	// maxClusterIDBytes is kept free in the tags for the cluster id to come.
	maxClusterIDBytes = 64
	// maxLabelBytes is memberlist's bound on the label of packets.
	maxLabelBytes = 255
)

// Network is how gossip reaches others and is reached. A network that cannot work
// with the machine's own addresses may also have IP() net.IP, the address of this
// host.
type Network interface {
	Listen(addr string) (net.Listener, error)
	ListenPacket(addr string) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Config is what Open needs. NodeID, Name, Cluster, APIAddr and PeerAddr are
// required.
type Config struct {
	NodeID partition.NodeID
	Name   string
	// Cluster is the cluster's name: the gossip label.
	Cluster string
	// ClusterID is the cluster that the node belongs to, empty while it has none.
	ClusterID string
	// APIAddr and PeerAddr are where others reach this node, host:port.
	APIAddr, PeerAddr string
	Zone, Version     string
	// Expect is the node's --bootstrap-expect.
	Expect int

	// Network defaults to the machine's own.
	Network Network
	// Bind is where to listen, for streams and packets, host:port; port 0 takes a
	// free one. Default 127.0.0.1:7822.
	Bind string
	// Advertise is what others are told, host or host:port, where it differs from
	// Bind. A name is resolved once, by Open: gossip carries addresses only.
	Advertise string
	// Join are addresses of members, host or host:port, of this node too.
	Join []string
	// Resolve turns a host name into addresses. Default: the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]net.IP, error)
	// Events gets what happens: one at a time, from a goroutine of Membership. It
	// may be slow; what it cannot keep up with is dropped and counted. Default:
	// nobody.
	Events func(Event)

	// forget stands in for forgetAfter in tests of what comes after it.
	forget time.Duration
}

var nodeIDPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func (c *Config) defaults() error {
	if c.Bind == "" {
		c.Bind = net.JoinHostPort("127.0.0.1", strconv.Itoa(DefaultPort))
	}
	if c.Network == nil {
		c.Network = machine{}
	}
	if c.Resolve == nil {
		c.Resolve = func(ctx context.Context, host string) ([]net.IP, error) {
			return net.DefaultResolver.LookupIP(ctx, "ip", host)
		}
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.forget == 0 {
		c.forget = forgetAfter
	}
	switch {
	case !nodeIDPattern.MatchString(string(c.NodeID)):
		return fmt.Errorf("node id %q", c.NodeID)
	case c.Name == "":
		return errors.New("no node name")
	case c.Cluster == "" || len(c.Cluster) > maxLabelBytes:
		return fmt.Errorf("cluster name of %d bytes, 1 to %d are allowed", len(c.Cluster), maxLabelBytes)
	case len(c.ClusterID) > maxClusterIDBytes:
		return fmt.Errorf("cluster id of %d bytes, %d are allowed", len(c.ClusterID), maxClusterIDBytes)
	case c.Expect < 0:
		return fmt.Errorf("%d expected nodes", c.Expect)
	case len(c.Join) > maxJoin:
		return fmt.Errorf("%d join addresses, %d are allowed", len(c.Join), maxJoin)
	}
	for _, addr := range []string{c.APIAddr, c.PeerAddr, c.Bind} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return err
		}
	}
	for _, join := range c.Join {
		if _, _, err := splitJoin(join); err != nil {
			return fmt.Errorf("join address %q: %w", join, err)
		}
	}
	if size := c.tags().bound(); size > maxTagBytes {
		return fmt.Errorf("name, addresses, zone and version together need %d bytes in gossip, %d are there: shorten the zone (%d bytes) or the advertised addresses",
			size, maxTagBytes, len(c.Zone))
	}
	return nil
}

func (c *Config) tags() tags {
	return tags{
		tagName: c.Name, tagAPI: c.APIAddr, tagPeer: c.PeerAddr, tagZone: c.Zone,
		tagVersion: c.Version, tagCluster: c.ClusterID, tagExpect: strconv.Itoa(c.Expect),
	}
}

// splitJoin takes host, host:port, an IPv6 address with or without brackets, or
// that in brackets with a port.
func splitJoin(addr string) (host string, port int, err error) {
	if ip := net.ParseIP(addr); ip != nil {
		return addr, DefaultPort, nil
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		var missing *net.AddrError
		if !errors.As(err, &missing) || missing.Err != "missing port in address" {
			return "", 0, err
		}
		if host, portText, err = net.SplitHostPort(addr + ":" + strconv.Itoa(DefaultPort)); err != nil {
			return "", 0, err
		}
	}
	number, err := strconv.ParseUint(portText, 10, 16)
	switch {
	case err != nil || number == 0:
		return "", 0, fmt.Errorf("port %q", portText)
	case host == "":
		return "", 0, errors.New("no host")
	}
	return host, int(number), nil
}

// machine is the machine's own network.
type machine struct{}

func (machine) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
func (machine) ListenPacket(addr string) (net.PacketConn, error) {
	return net.ListenPacket("udp", addr)
}
func (machine) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: streamTimeout}).DialContext(ctx, "tcp", addr)
}

// streamTimeout bounds opening a stream, and each read and write of a state
// exchange. Exchanges between living nodes take milliseconds.
const streamTimeout = 5 * time.Second
