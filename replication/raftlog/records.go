package raftlog

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/hashicorp/raft"
)

// recordFormat is the first byte of each of our records.
const recordFormat = 1

// vote is one vote, whole.
//
//	format:1 term:8 candidate
type vote struct {
	Term      uint64
	Candidate string
}

func (v vote) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordFormat}, v.Term)
	return append(b, v.Candidate...)
}

func checkFormat(what string, b []byte) error {
	switch {
	case len(b) == 0:
		return fmt.Errorf("%w: empty %s", ErrCorrupt, what)
	case b[0] > recordFormat:
		return fmt.Errorf("%w: %s format %d", ErrNewerFormat, what, b[0])
	case b[0] != recordFormat:
		return fmt.Errorf("%w: %s format %d", ErrCorrupt, what, b[0])
	}
	return nil
}

func decodeVote(b []byte) (vote, error) {
	if err := checkFormat("vote", b); err != nil {
		return vote{}, err
	}
	if len(b) < 9 {
		return vote{}, fmt.Errorf("%w: vote of %d bytes", ErrCorrupt, len(b))
	}
	return vote{Term: binary.BigEndian.Uint64(b[1:]), Candidate: string(b[9:])}, nil
}

// meta is all that is stored of a snapshot.
//
//	format:1 version:1 index:8 term:8 configurationIndex:8 servers:4
//	then a server: suffrage:1 len(id):2 id len(address):2 address
type meta struct {
	Version            raft.SnapshotVersion
	Index, Term        uint64
	ConfigurationIndex uint64
	Configuration      raft.Configuration
}

const metaHeader = 1 + 1 + 8 + 8 + 8 + 4

func (m meta) id() string { return fmt.Sprintf("%d-%d", m.Term, m.Index) }

func (m meta) raft() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: m.Version, ID: m.id(), Index: m.Index, Term: m.Term,
		Configuration: m.Configuration.Clone(), ConfigurationIndex: m.ConfigurationIndex,
	}
}

func (m meta) encode() ([]byte, error) {
	if m.Version < 0 || m.Version > math.MaxUint8 {
		return nil, fmt.Errorf("snapshot version %d", m.Version)
	}
	b := []byte{recordFormat, byte(m.Version)}
	b = binary.BigEndian.AppendUint64(b, m.Index)
	b = binary.BigEndian.AppendUint64(b, m.Term)
	b = binary.BigEndian.AppendUint64(b, m.ConfigurationIndex)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Configuration.Servers)))
	for _, s := range m.Configuration.Servers {
		if len(s.ID) > math.MaxUint16 || len(s.Address) > math.MaxUint16 || s.Suffrage < 0 || s.Suffrage > raft.Staging {
			return nil, fmt.Errorf("server %q can not be stored", s.ID)
		}
		b = append(b, byte(s.Suffrage))
		b = binary.BigEndian.AppendUint16(b, uint16(len(s.ID)))
		b = append(b, s.ID...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(s.Address)))
		b = append(b, s.Address...)
	}
	return b, nil
}

func decodeMeta(b []byte) (meta, error) {
	if err := checkFormat("snapshot metadata", b); err != nil {
		return meta{}, err
	}
	corrupt := func() (meta, error) {
		return meta{}, fmt.Errorf("%w: snapshot metadata of %d bytes", ErrCorrupt, len(b))
	}
	if len(b) < metaHeader {
		return corrupt()
	}
	m := meta{
		Version:            raft.SnapshotVersion(b[1]),
		Index:              binary.BigEndian.Uint64(b[2:]),
		Term:               binary.BigEndian.Uint64(b[10:]),
		ConfigurationIndex: binary.BigEndian.Uint64(b[18:]),
	}
	servers, rest := binary.BigEndian.Uint32(b[26:]), b[metaHeader:]
	text := func() (string, bool) {
		if len(rest) < 2 {
			return "", false
		}
		n := int(binary.BigEndian.Uint16(rest))
		if len(rest) < 2+n {
			return "", false
		}
		s := string(rest[2 : 2+n])
		rest = rest[2+n:]
		return s, true
	}
	for range servers {
		if len(rest) == 0 || raft.ServerSuffrage(rest[0]) > raft.Staging {
			return corrupt()
		}
		s := raft.Server{Suffrage: raft.ServerSuffrage(rest[0])}
		rest = rest[1:]
		id, ok1 := text()
		address, ok2 := text()
		if !ok1 || !ok2 {
			return corrupt()
		}
		s.ID, s.Address = raft.ServerID(id), raft.ServerAddress(address)
		m.Configuration.Servers = append(m.Configuration.Servers, s)
	}
	if len(rest) != 0 {
		return corrupt()
	}
	return m, nil
}
