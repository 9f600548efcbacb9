package logcheck

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"
)

const (
	// MaxTerm is the highest term that a replica takes from anybody. Terms are
	// counted up without a check by the Raft library: at 2^64 they would begin
	// again, and votes would be given twice.
	MaxTerm = 1 << 62
	// MaxTermStep is how far a term may be above the highest one that a replica
	// knows. A term is one election: a replica that is away misses that many only
	// if its group elects a leader every second for 136 years.
	MaxTermStep = 1 << 32
	// MaxIndex is the highest index of an entry: a group that appends a million
	// entries per second reaches it after 146,000 years.
	MaxIndex = 1 << 62
	// maxConfigurationBytes bounds an encoded configuration, about 100 bytes per
	// server: ten thousand of them.
	maxConfigurationBytes = 1 << 20
)

// ErrInvalid is what no replica of this build appends to its log, or says of it.
var ErrInvalid = errors.New("not valid in a Raft log")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Position checks the index and term of an entry.
func Position(index, term uint64) error {
	switch {
	case index == 0 || index > MaxIndex:
		return invalid("entry %d", index)
	case term == 0 || term > MaxTerm:
		return invalid("entry %d of term %d", index, term)
	}
	return nil
}

// Entry checks an entry apart from what its command says. The error is
// [ErrInvalid].
func Entry(e *raft.Log) error {
	if err := Position(e.Index, e.Term); err != nil {
		return err
	}
	switch e.Type {
	case raft.LogCommand, raft.LogNoop:
		return nil
	case raft.LogConfiguration:
		if _, err := Configuration(e.Data); err != nil {
			return fmt.Errorf("entry %d of term %d: %w", e.Index, e.Term, err)
		}
		return nil
	}
	return invalid("entry %d of term %d has type %d", e.Index, e.Term, e.Type)
}

// Configuration decodes a configuration. The library panics where this returns
// [ErrInvalid]. Server ids are "node/generation", and are the addresses too.
func Configuration(b []byte) (c raft.Configuration, err error) {
	if len(b) > maxConfigurationBytes {
		return raft.Configuration{}, invalid("configuration of %d bytes", len(b))
	}
	defer func() {
		if p := recover(); p != nil {
			c, err = raft.Configuration{}, invalid("configuration of %d bytes: %v", len(b), p)
		}
	}()
	c = raft.DecodeConfiguration(b)
	seen, voters := map[raft.ServerID]bool{}, 0
	for _, s := range c.Servers {
		if !isServerID(s.ID) || string(s.Address) != string(s.ID) || seen[s.ID] || s.Suffrage < raft.Voter || s.Suffrage > raft.Staging {
			return raft.Configuration{}, invalid("configuration with server %q at %q, suffrage %d", s.ID, s.Address, s.Suffrage)
		}
		seen[s.ID] = true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 {
		return raft.Configuration{}, invalid("configuration without a voter")
	}
	return c, nil
}

func isServerID(id raft.ServerID) bool {
	node, generation, ok := strings.Cut(string(id), "/")
	_, err := strconv.ParseUint(generation, 10, 32)
	return ok && node != "" && err == nil
}
