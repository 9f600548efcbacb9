package main

import (
	"io"
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/capstan-kv/capstan/node"
)

// serveSettings are the flags of serve.
type serveSettings struct {
	config              node.Config
	logLevel, logFormat string
	memoryLimit         byteSize

	// Of children of a demo only.
	exitWithFD int
	ephemeral  bool
}

func (s *serveSettings) add(flags *pflag.FlagSet) {
	c := &s.config
	flags.StringVar(&c.Name, "name", "", "the node's `name`, unique in the cluster: 1 to 32 of a-z, 0-9 and inner dashes (required)")
	flags.StringVar(&c.DataDir, "data-dir", "", "the `directory` of all that the node must not forget (required)")
	flags.StringVar(&c.Listen, "listen", "127.0.0.1:7820", "`address` of the client API")
	flags.StringVar(&c.ListenPeer, "listen-peer", "127.0.0.1:7821", "`address` of Raft and node-to-node traffic")
	flags.StringVar(&c.ListenGossip, "listen-gossip", "127.0.0.1:7822", "`address` of gossip, TCP and UDP")
	flags.StringVar(&c.Advertise, "advertise", "", "`address` of the client API told to others, where it differs")
	flags.StringVar(&c.AdvertisePeer, "advertise-peer", "", "`address` of node-to-node traffic told to others, where it differs")
	flags.StringVar(&c.AdvertiseGossip, "advertise-gossip", "", "`address` of gossip told to others, where it differs")
	flags.StringSliceVar(&c.Join, "join", nil, "gossip `addresses` of other nodes, default port 7822; tried for ever")
	flags.IntVar(&c.BootstrapExpect, "bootstrap-expect", 0, "all initial nodes, counted; matters only with an empty data directory (0: 1 without --join)")
	flags.StringVar(&c.Cluster, "cluster", "capstan", "gossip `label`: nodes of another one are not heard")
	flags.IntVar(&c.Partitions, "partitions", 16, "partitions of a new cluster: a power of two, at most 1024")
	flags.IntVar(&c.ReplicationFactor, "replication-factor", 3, "replicas of each partition of a new cluster, 1 to 7")
	flags.StringVar(&c.Zone, "zone", "", "what fails together with this node")
	flags.BoolVar(&c.Insecure, "insecure", false, "allow listeners off loopback although nothing is encrypted or authenticated")
	flags.IntVar(&c.MaxValueSize, "max-value-size", 1<<20, "most `bytes` of a value, at most 3 MiB")
	flags.Var(&s.memoryLimit, "memory-limit", "memory that caches and budgets are sized for, at least 256MiB, as 512MiB (0: GOMEMLIMIT, else nine tenths of the cgroup's limit, else 1GiB)")
	flags.DurationVar(&c.MaxClockOffset, "max-clock-offset", 500*time.Millisecond, "how far a timestamp from elsewhere moves this node's clock")
	flags.BoolVar(&c.EnableChaos, "enable-chaos", false, "let whoever reaches the client API cut this node off from others (capstan chaos); for demos and tests")
	flags.StringVar(&c.Pprof, "pprof", "", "`address` of net/http/pprof, loopback only (off if empty)")
	flags.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&s.logFormat, "log-format", "text", "text or json")
	flags.String(configFlag, "", "a YAML `file` with flags by name")
	flags.IntVar(&s.exitWithFD, "exit-with-fd", -1, "stop when this inherited file descriptor closes")
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "delete the data when --exit-with-fd closes")
	_ = flags.MarkHidden("exit-with-fd")
	_ = flags.MarkHidden("ephemeral")
}

const configFlag = "config"

// settable are the flags that a variable or the file may give.
func settable(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" && f.Name != configFlag {
			names = append(names, f.Name)
		}
	})
	return names
}

func variable(flag string) string {
	return "CAPSTAN_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fillFlags gives each flag that is not on the command line the value of its
// variable, else that of the file. Only names of flags are looked up; a name in
// the file that is none is an error.
func fillFlags(flags *pflag.FlagSet, env func(string) (string, bool), read func(string) ([]byte, error)) error {
	path := flags.Lookup(configFlag).Value.String()
	if !flags.Changed(configFlag) {
		path, _ = env(variable(configFlag))
	}
	names := settable(flags)
	file := map[string]string{}
	if path != "" {
		text, err := read(path)
		if err != nil {
			return usageErrorf("config: %w", err)
		}
		if file, err = parseConfig(path, text, names); err != nil {
			return err
		}
	}
	for _, name := range names {
		if flags.Changed(name) {
			continue
		}
		if value, ok := env(variable(name)); ok {
			if err := flags.Set(name, value); err != nil {
				return usageErrorf("%s=%q: %w", variable(name), value, err)
			}
		} else if value, ok := file[name]; ok {
			if err := flags.Set(name, value); err != nil {
				return usageErrorf("%s: %s: %w", path, name, err)
			}
		}
	}
	return nil
}

// parseConfig reads a flat YAML mapping: a flag's name, its value, lists for
// flags that take several.
func parseConfig(path string, text []byte, names []string) (map[string]string, error) {
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal(text, &nodes); err != nil {
		return nil, usageErrorf("%s: %w", path, err)
	}
	known := make(map[string]bool, len(names))
	for _, n := range names {
		known[n] = true
	}
	values := make(map[string]string, len(nodes))
	for key, value := range nodes {
		if !known[key] {
			e := usageErrorf("%s:%d: unknown key %q", path, value.Line, key)
			if near := closest(key, names); near != "" {
				_ = e.hint(near)
			}
			return nil, e
		}
		switch value.Kind {
		case yaml.ScalarNode:
			if value.Tag != "!!null" {
				values[key] = value.Value
			}
		case yaml.SequenceNode:
			var list []string
			if err := value.Decode(&list); err != nil || key != "join" {
				return nil, usageErrorf("%s:%d: %s does not take a list of that kind", path, value.Line, key)
			}
			values[key] = strings.Join(list, ",")
		default:
			return nil, usageErrorf("%s:%d: %s does not take a mapping", path, value.Line, key)
		}
	}
	return values, nil
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// check refuses what cannot work before anything is opened.
func (s *serveSettings) check() error {
	c := &s.config
	switch {
	case c.Name == "":
		return usageErrorf("--name is required").hint("--name n1")
	case !nodeName.MatchString(c.Name):
		return usageErrorf("--name %q: a name is 1 to 32 of a-z, 0-9 and inner dashes", c.Name)
	case c.DataDir == "":
		return usageErrorf("--data-dir is required").hint("--data-dir ./" + c.Name)
	case c.Partitions < 1 || c.Partitions > 1024 || bits.OnesCount(uint(c.Partitions)) != 1:
		return usageErrorf("--partitions %d: a power of two, at most 1024, is needed", c.Partitions)
	case c.ReplicationFactor < 1 || c.ReplicationFactor > 7:
		return usageErrorf("--replication-factor %d: 1 to 7 are possible", c.ReplicationFactor)
	case c.BootstrapExpect < 0:
		return usageErrorf("--bootstrap-expect %d: it counts nodes", c.BootstrapExpect)
	case c.MaxValueSize < 1 || c.MaxValueSize > 3<<20:
		return usageErrorf("--max-value-size %d: 1 to %d bytes are possible", c.MaxValueSize, 3<<20)
	case s.memoryLimit != 0 && s.memoryLimit < node.LeastMemory:
		return usageErrorf("--memory-limit %s: at least %d MiB are needed", &s.memoryLimit, node.LeastMemory>>20)
	case c.MaxClockOffset < 0:
		return usageErrorf("--max-clock-offset %s: it cannot be below 0", c.MaxClockOffset)
	case s.logFormat != "text" && s.logFormat != "json":
		return usageErrorf("--log-format is text or json, not %q", s.logFormat)
	}
	if err := new(slog.Level).UnmarshalText([]byte(s.logLevel)); err != nil {
		return usageErrorf("--log-level is debug, info, warn or error, not %q", s.logLevel)
	}
	for _, l := range []struct{ flag, address string }{
		{"listen", c.Listen}, {"listen-peer", c.ListenPeer}, {"listen-gossip", c.ListenGossip},
		{"pprof", c.Pprof}, {"advertise", c.Advertise}, {"advertise-peer", c.AdvertisePeer}, {"advertise-gossip", c.AdvertiseGossip},
	} {
		if l.address == "" && !strings.HasPrefix(l.flag, "listen") {
			continue
		}
		host, port, err := net.SplitHostPort(l.address)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return usageErrorf("--%s %q is not of the form host:port", l.flag, l.address)
		}
		switch {
		case loopback(host) || strings.HasPrefix(l.flag, "advertise"):
		case l.flag == "pprof":
			return usageErrorf("--pprof %s: profiles are served on loopback only", l.address).hint("--pprof 127.0.0.1:" + port)
		case !c.Insecure:
			return usageErrorf("--%s %s is off loopback, and nothing is encrypted or authenticated yet", l.flag, l.address).
				hint("--insecure, on a network that you trust")
		}
	}
	for i, j := range c.Join {
		if c.Join[i] = strings.TrimSpace(j); c.Join[i] == "" {
			return usageErrorf("--join names an empty address")
		}
	}
	return nil
}

// loopback reports whether a host can be reached from this machine only. A name
// other than localhost may lead anywhere.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (s *serveSettings) handler(w io.Writer) slog.Handler {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.logLevel)) // checked
	o := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

func newFlagSet() *pflag.FlagSet { return pflag.NewFlagSet("serve", pflag.ContinueOnError) }
