package membership

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"github.com/hashicorp/serf/serf"

	"github.com/capstan-kv/capstan/partition"
)

// Status is how a member seems from here.
type Status uint8

// Statuses of members.
const (
	StatusAlive Status = iota
	StatusFailed
	StatusLeft
)

func (s Status) String() string { return [...]string{"alive", "failed", "left"}[s] }

// Member is gossip's view of a node.
type Member struct {
	ID   partition.NodeID
	Name string
	// APIAddr, PeerAddr and GossipAddr are host:port.
	APIAddr, PeerAddr, GossipAddr string
	Zone, Version                 string
	// ClusterID is the cluster that the node belongs to, empty for none;
	// Initialised says whether there is one.
	ClusterID   string
	Initialised bool
	Expect      int
	Status      Status
}

// Tag keys are one byte: all tags share 512.
const (
	tagName    = "n"
	tagAPI     = "a"
	tagPeer    = "p"
	tagZone    = "z"
	tagVersion = "v"
	tagCluster = "c"
	tagExpect  = "e"
)

type tags map[string]string

// bound is the most that serf's encoding (msgpack with a magic byte) can take once
// the cluster id is there.
func (t tags) bound() int {
	size := 1 + 3 // the magic byte, the map's header
	for key, value := range t {
		if key == tagCluster {
			value = string(make([]byte, maxClusterIDBytes))
		}
		size += 1 + len(key) + 3 + len(value)
	}
	return size
}

func memberOf(m serf.Member) Member {
	expect, err := strconv.Atoi(m.Tags[tagExpect])
	if err != nil || expect < 0 {
		expect = 0 // not one of ours, or of a version to come: it founds nothing
	}
	status := StatusAlive
	switch m.Status {
	case serf.StatusFailed:
		status = StatusFailed
	case serf.StatusLeaving, serf.StatusLeft:
		status = StatusLeft
	}
	return Member{
		ID: partition.NodeID(m.Name), Name: m.Tags[tagName],
		APIAddr: m.Tags[tagAPI], PeerAddr: m.Tags[tagPeer], GossipAddr: gossipAddr(m),
		Zone: m.Tags[tagZone], Version: m.Tags[tagVersion],
		ClusterID: m.Tags[tagCluster], Initialised: m.Tags[tagCluster] != "",
		Expect: expect, Status: status,
	}
}

func gossipAddr(m serf.Member) string {
	return net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))
}

// foreign says whether two cluster ids belong to different clusters.
func foreign(ours, theirs string) bool { return ours != "" && theirs != "" && ours != theirs }

func sortMembers(members []Member) {
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
}
