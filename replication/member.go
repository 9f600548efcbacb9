package replication

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
)

// Member is one replica as the others of its group see it.
type Member struct {
	Node       partition.NodeID
	Generation uint32
	// Nonvoter members receive the log and do not count for any quorum.
	Nonvoter bool
}

// ServerID is the member's Raft server id and address, "node/generation".
func (m Member) ServerID() raft.ServerID {
	return raft.ServerID(string(m.Node) + "/" + strconv.FormatUint(uint64(m.Generation), 10))
}

func (m Member) address() raft.ServerAddress { return raft.ServerAddress(m.ServerID()) }

// ParseServerID is the inverse of [Member.ServerID].
func ParseServerID(id raft.ServerID) (Member, error) {
	node, gen, ok := strings.Cut(string(id), "/")
	g, err := strconv.ParseUint(gen, 10, 32)
	if !ok || err != nil || node == "" {
		return Member{}, fmt.Errorf("raft server id %q is not node/generation", id)
	}
	return Member{Node: partition.NodeID(node), Generation: uint32(g)}, nil
}

func configurationOf(members []Member) raft.Configuration {
	var c raft.Configuration
	for _, m := range members {
		s := raft.Server{ID: m.ServerID(), Address: m.address(), Suffrage: raft.Voter}
		if m.Nonvoter {
			s.Suffrage = raft.Nonvoter
		}
		c.Servers = append(c.Servers, s)
	}
	return c
}

// membersOf reads a configuration. Only ids made by ServerID ever get into
// one; another is left out, and so counts for no quorum on our side while it
// still raises the number needed: see ballotOf.
func membersOf(c raft.Configuration) []Member {
	members := make([]Member, 0, len(c.Servers))
	for _, s := range c.Servers {
		m, err := ParseServerID(s.ID)
		if err != nil {
			m = Member{Node: partition.NodeID(s.ID)}
		}
		m.Nonvoter = s.Suffrage != raft.Voter
		members = append(members, m)
	}
	return members
}
