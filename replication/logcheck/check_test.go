package logcheck_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/replication/logcheck"
)

func configuration(servers ...raft.Server) []byte {
	return raft.EncodeConfiguration(raft.Configuration{Servers: servers})
}

func server(id string, s raft.ServerSuffrage) raft.Server {
	return raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id), Suffrage: s}
}

func TestEntry(t *testing.T) {
	good := configuration(server("n1-abcd/1", raft.Voter), server("n2-abcd/4294967295", raft.Nonvoter))
	for name, c := range map[string]struct {
		entry raft.Log
		ok    bool
	}{
		"command":                {raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte("anything")}, true},
		"no-op":                  {raft.Log{Index: logcheck.MaxIndex, Term: logcheck.MaxTerm, Type: raft.LogNoop}, true},
		"configuration":          {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: good}, true},
		"no index":               {raft.Log{Term: 1}, false},
		"no term":                {raft.Log{Index: 1}, false},
		"index near 2^64":        {raft.Log{Index: math.MaxUint64, Term: 1}, false},
		"term near 2^64":         {raft.Log{Index: 1, Term: math.MaxUint64}, false},
		"barrier":                {raft.Log{Index: 1, Term: 1, Type: raft.LogBarrier}, false},
		"peers of old":           {raft.Log{Index: 1, Term: 1, Type: raft.LogAddPeerDeprecated}, false},
		"unknown type":           {raft.Log{Index: 1, Term: 1, Type: 200}, false},
		"junk configuration":     {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("junk")}, false},
		"empty configuration":    {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration}, false},
		"no voter":               {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration(server("a/1", raft.Nonvoter))}, false},
		"a server twice":         {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration(server("a/1", raft.Voter), server("a/1", raft.Voter))}, false},
		"no generation":          {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration(server("a", raft.Voter))}, false},
		"generation beyond 2^32": {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration(server("a/4294967296", raft.Voter))}, false},
		"unknown suffrage":       {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration(server("a/1", 9))}, false},
		"address elsewhere": {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration,
			Data: configuration(raft.Server{ID: "a/1", Address: "b/1"})}, false},
		"a megabyte of configuration": {raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte(strings.Repeat("x", 2<<20))}, false},
	} {
		if err := logcheck.Entry(&c.entry); (err == nil) != c.ok || err != nil && !errors.Is(err, logcheck.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What passes is what the library reads without a panic, and reads the same.
func FuzzConfiguration(f *testing.F) {
	f.Add(configuration(server("n1-abcd/1", raft.Voter), server("n2-abcd/7", raft.Nonvoter)))
	f.Add([]byte("junk"))
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := logcheck.Configuration(b)
		if err != nil {
			return
		}
		again, err := logcheck.Configuration(raft.EncodeConfiguration(c))
		if err != nil || len(again.Servers) != len(c.Servers) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}
