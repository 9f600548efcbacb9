package membership

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestJoinAddresses(t *testing.T) {
	for _, test := range []struct {
		in, host string
		port     int
	}{
		{"a", "a", 7822}, {"a:1", "a", 1}, {"10.0.0.1", "10.0.0.1", 7822}, {"10.0.0.1:5", "10.0.0.1", 5},
		{"::1", "::1", 7822}, {"[::1]", "::1", 7822}, {"[::1]:9", "::1", 9},
		{"", "", 0}, {":7822", "", 0}, {"a:b", "", 0}, {"a:0", "", 0}, {"a:65536", "", 0}, {"a:1:2", "", 0}, {"a:", "", 0},
	} {
		host, port, err := splitJoin(test.in)
		if (err != nil) != (test.host == "") || err == nil && (host != test.host || port != test.port) {
			t.Errorf("%q: %q %d %v", test.in, host, port, err)
		}
	}
}

func valid() Config {
	return Config{NodeID: "n1-aaaa", Name: "n1", Cluster: "capstan", APIAddr: "127.0.0.1:1", PeerAddr: "127.0.0.1:2", Bind: "127.0.0.1:0"}
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"node id":       func(c *Config) { c.NodeID = "N 1" },
		"node name":     func(c *Config) { c.Name = "" },
		"cluster name":  func(c *Config) { c.Cluster = strings.Repeat("x", 256) },
		"cluster id":    func(c *Config) { c.ClusterID = strings.Repeat("x", 65) },
		"shorten":       func(c *Config) { c.Zone = strings.Repeat("z", 400) },
		"join address":  func(c *Config) { c.Join = []string{"a:b"} },
		"missing port":  func(c *Config) { c.PeerAddr = "x" },
		"expected":      func(c *Config) { c.Expect = -1 },
		"port":          func(c *Config) { c.Advertise = "10.0.0.1:x" },
		"advertised":    func(c *Config) { c.Advertise = "no.such.host.invalid:1"; c.Resolve = nowhere },
		"gossip stream": func(c *Config) { c.Bind = "192.0.2.1:0" },
	} {
		c := valid()
		change(&c)
		m, err := Open(c)
		if err == nil {
			_ = m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func nowhere(context.Context, string) ([]net.IP, error) { return nil, nil }

// TestTheMachinesOwnNetwork is the one test with sockets and real time.
func TestTheMachinesOwnNetwork(t *testing.T) {
	first, err := Open(valid())
	if err != nil {
		t.Fatal(err)
	}
	c := valid()
	c.NodeID, c.Name, c.Zone, c.Join = "n2-aaaa", "n2", strings.Repeat("z", 300), []string{first.Addr()}
	second, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.SetClusterID(strings.Repeat("c", 64)); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		members := first.Members()
		if len(members) == 2 && members[1].Initialised && members[1].Zone == c.Zone && len(second.Members()) == 2 {
			break
		}
		select {
		case <-first.Changes():
		case <-second.Changes():
		case <-deadline:
			t.Fatalf("%+v", members)
		}
	}
	for _, m := range []*Membership{second, first} {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
