package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
)

// Defaults and limits of [Config].
const (
	DefaultCluster           = "capstan"
	DefaultPartitions        = 16
	DefaultReplicationFactor = 3
	DefaultListen            = "127.0.0.1:7820"
	DefaultListenPeer        = "127.0.0.1:7821"
	DefaultListenGossip      = "127.0.0.1:7822"
	DefaultGossipPort        = "7822"
	DefaultMaxValueSize      = 1 << 20
	DefaultMaxClockOffset    = 500 * time.Millisecond

	MaxReplicationFactor = 7
	LimitValueSize       = 3 << 20 // a message holds one value and stays below 4 MiB
	maxBootstrapExpect   = 64      // everybody must answer at once for a cluster to begin
)

// ConfigError is a [Config] that cannot work. Nothing was opened or written.
type ConfigError struct {
	Field   string // the flag's name, as "listen-peer"
	Problem string
}

func (e *ConfigError) Error() string { return "--" + e.Field + ": " + e.Problem }

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// withDefaults fills in what was left out and says what cannot work.
func (c Config) withDefaults() (Config, error) {
	c.Cluster = cmp.Or(c.Cluster, DefaultCluster)
	if c.BootstrapExpect == 0 && len(c.Join) == 0 {
		c.BootstrapExpect = 1
	}
	c.Partitions = cmp.Or(c.Partitions, DefaultPartitions)
	c.ReplicationFactor = cmp.Or(c.ReplicationFactor, DefaultReplicationFactor)
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.ListenPeer = cmp.Or(c.ListenPeer, DefaultListenPeer)
	c.ListenGossip = cmp.Or(c.ListenGossip, DefaultListenGossip)
	c.MaxValueSize = cmp.Or(c.MaxValueSize, DefaultMaxValueSize)
	c.MemoryLimit = cmp.Or(c.MemoryLimit, DefaultMemory)
	c.FileLimit = cmp.Or(c.FileLimit, 1<<20)
	c.MaxClockOffset = cmp.Or(c.MaxClockOffset, DefaultMaxClockOffset)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.LogDropped == nil {
		c.LogDropped = func() uint64 { return 0 }
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Network == nil {
		c.Network = systemNetwork{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, c.check()
}

func (c Config) check() error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, &ConfigError{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	switch {
	case c.Name == "":
		bad("name", "required")
	case !nameForm.MatchString(c.Name):
		bad("name", "%q is not 1 to 32 of a-z, 0-9 and inner dashes", c.Name)
	}
	if c.DataDir == "" {
		bad("data-dir", "required")
	}
	if c.MemoryLimit < LeastMemory {
		bad("memory-limit", "%d MiB, at least %d MiB is needed", c.MemoryLimit/mib, LeastMemory/mib)
	}
	if len(c.Cluster) > 64 {
		bad("cluster", "%d bytes, at most 64 allowed", len(c.Cluster))
	}
	if c.BootstrapExpect < 0 || c.BootstrapExpect > maxBootstrapExpect {
		bad("bootstrap-expect", "%d is not in 0 to %d", c.BootstrapExpect, maxBootstrapExpect)
	}
	if err := partition.ValidCount(c.Partitions); err != nil {
		bad("partitions", "%v", err)
	}
	if c.ReplicationFactor < 1 || c.ReplicationFactor > MaxReplicationFactor {
		bad("replication-factor", "%d is not in 1 to %d", c.ReplicationFactor, MaxReplicationFactor)
	}
	if len(c.Zone) > 32 {
		bad("zone", "%d bytes, at most 32 allowed", len(c.Zone))
	}
	if c.MaxValueSize < 1 || c.MaxValueSize > LimitValueSize {
		bad("max-value-size", "%d is not in 1 to %d bytes", c.MaxValueSize, LimitValueSize)
	}
	if c.MaxClockOffset < 0 {
		bad("max-clock-offset", "%v is negative", c.MaxClockOffset)
	}
	listeners := []struct{ field, addr, advertise string }{
		{"listen", c.Listen, c.Advertise},
		{"listen-peer", c.ListenPeer, c.AdvertisePeer},
		{"listen-gossip", c.ListenGossip, c.AdvertiseGossip},
	}
	for _, l := range listeners {
		host, _, err := net.SplitHostPort(l.addr)
		if err != nil {
			bad(l.field, "%q is not host:port", l.addr)
			continue
		}
		if !c.Insecure && c.Network == (systemNetwork{}) && !isLoopback(host) {
			bad(l.field, "%s is not a loopback address and nothing here is encrypted or authenticated yet: "+
				"listen on 127.0.0.1, or add --insecure if only friends can reach this network", l.addr)
		}
		if l.advertise == "" {
			continue
		}
		switch host, _, err := net.SplitHostPort(l.advertise); {
		case err != nil:
			bad("advertise"+l.field[len("listen"):], "%q is not host:port", l.advertise)
		case isUnspecified(host):
			bad("advertise"+l.field[len("listen"):], "%q is no address that others could reach", l.advertise)
		}
	}
	if c.Pprof != "" {
		if host, _, err := net.SplitHostPort(c.Pprof); err != nil || !isLoopback(host) {
			bad("pprof", "%q is not host:port on loopback", c.Pprof)
		}
	}
	return errors.Join(problems...)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func isUnspecified(host string) bool {
	if host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

// advertised is the address to tell others for a listener: what was asked for,
// else where it listens, with a host that can be reached from outside in place
// of the unspecified one.
func advertised(asked string, listener net.Addr) (string, error) {
	if asked != "" {
		return asked, nil
	}
	host, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return "", err
	}
	if !isUnspecified(host) {
		return listener.String(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, addr := range addrs {
		if ipnet, ok := addr.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() {
			return net.JoinHostPort(ipnet.IP.String(), port), nil
		}
	}
	return "", fmt.Errorf("%s listens everywhere, but this machine has no address to advertise: name one", listener)
}
