package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/capstan-kv/capstan/partition"
)

// MaxCommandBytes bounds an encoded command. The longest, a placement of 1024
// partitions on 7 nodes each, is below 600 KiB with the longest ids.
const MaxCommandBytes = 1 << 20

// Command is one change of the state: exactly one field is set.
type Command struct {
	Found          *Found          `json:"found,omitempty"`
	RegisterNode   *RegisterNode   `json:"register_node,omitempty"`
	SetNodeState   *SetNodeState   `json:"set_node_state,omitempty"`
	Place          *Place          `json:"place,omitempty"`
	AddReplica     *AddReplica     `json:"add_replica,omitempty"`
	PromoteReplica *PromoteReplica `json:"promote_replica,omitempty"`
	RemoveReplica  *RemoveReplica  `json:"remove_replica,omitempty"`
	RemoveNode     *RemoveNode     `json:"remove_node,omitempty"`
}

// Found makes the cluster. It happens once.
type Found struct {
	ClusterID string   `json:"cluster_id"`
	Settings  Settings `json:"settings"`
}

// RegisterNode tells of a node's start. Node.State and Node.Recorded are ignored:
// a node that starts is alive, or goes on draining.
type RegisterNode struct {
	// ClusterID is the cluster that the node's data directory belongs to;
	// empty if it is new.
	ClusterID string `json:"cluster_id"`
	Node      Node   `json:"node"`
	// Previous is the start that the data directory knows to be registered: the
	// start on record has to be that one, or already the one of this command. The
	// zero Start says that the directory knows of none. Nil: an older program
	// sent the command, which wrote no starts down.
	Previous *Start `json:"previous,omitempty"`
}

// maxFirstStart bounds the start counter of a directory that knows of no
// registration: an older program counted every start there, and no node is
// started that often. So nobody can use up the numbers.
const maxFirstStart = 1 << 32

// SetNodeState changes how the cluster counts on a node. Incarnation is that
// of the start which the change is about: a node that has started again since
// is not meant. 0 means whichever.
type SetNodeState struct {
	Node        partition.NodeID `json:"node"`
	State       NodeState        `json:"state"`
	Incarnation uint64           `json:"incarnation"`
}

// RemoveNode takes a node that is not alive out of the cluster for ever. It may
// still hold replicas: their places stay its own until they are given to
// others. Eventual writes that it accepted and nobody else has are lost.
// Incarnation is as in [SetNodeState].
type RemoveNode struct {
	Node        partition.NodeID `json:"node"`
	Incarnation uint64           `json:"incarnation"`
}

// Place gives all partitions their first replicas, all voters. It happens once.
type Place struct {
	Assignment partition.Assignment `json:"assignment"`
}

// AddReplica adds a replica that does not vote yet. Generation must be the
// partition's next one.
type AddReplica struct {
	Partition  partition.ID     `json:"partition"`
	Node       partition.NodeID `json:"node"`
	Generation uint32           `json:"generation"`
}

// PromoteReplica makes a replica a voter.
type PromoteReplica struct {
	Partition  partition.ID     `json:"partition"`
	Node       partition.NodeID `json:"node"`
	Generation uint32           `json:"generation"`
}

// RemoveReplica removes a replica; its generation is never used again.
type RemoveReplica struct {
	Partition  partition.ID     `json:"partition"`
	Node       partition.NodeID `json:"node"`
	Generation uint32           `json:"generation"`
}

// EncodeCommand is the form of c in the Raft log.
func EncodeCommand(c Command) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	// Once it is in the log, nothing may keep a replica from reading it; text
	// that is not UTF-8 would.
	if _, err := DecodeCommand(data); err != nil {
		return nil, err
	}
	return data, nil
}

// DecodeCommand reads what [EncodeCommand] wrote and nothing else: unknown,
// repeated or misspelt fields and anything trailing are errors.
func DecodeCommand(data []byte) (Command, error) {
	var c Command
	if len(data) > MaxCommandBytes {
		return c, fmt.Errorf("control command of %d bytes, at most %d fit", len(data), MaxCommandBytes)
	}
	if err := decodeExactly(data, &c); err != nil {
		return Command{}, fmt.Errorf("control command: %w", err)
	}
	if err := c.check(); err != nil {
		return Command{}, err
	}
	return c, nil
}

// decodeExactly reads JSON that is byte for byte what its value encodes to.
func decodeExactly(data []byte, value any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(value); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one JSON value")
	}
	again, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("not in the form that is written")
	}
	return nil
}

// check says whether c is one command.
func (c Command) check() error {
	set := 0
	for _, is := range []bool{c.Found != nil, c.RegisterNode != nil, c.SetNodeState != nil, c.Place != nil,
		c.AddReplica != nil, c.PromoteReplica != nil, c.RemoveReplica != nil, c.RemoveNode != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("control command: %d commands in one", set)
	}
	return nil
}

func (c Command) String() string {
	switch {
	case c.Found != nil:
		return fmt.Sprintf("found cluster %s: %d partitions, %d replicas each", c.Found.ClusterID, c.Found.Settings.Partitions, c.Found.Settings.ReplicationFactor)
	case c.RegisterNode != nil:
		return fmt.Sprintf("register node %s, start %d, peer %s", c.RegisterNode.Node.ID, c.RegisterNode.Node.StartCounter, c.RegisterNode.Node.Peer)
	case c.SetNodeState != nil:
		return fmt.Sprintf("node %s is %s", c.SetNodeState.Node, c.SetNodeState.State)
	case c.Place != nil:
		return fmt.Sprintf("place %d partitions", len(c.Place.Assignment))
	case c.AddReplica != nil:
		return fmt.Sprintf("partition %d: add replica %s/%d", c.AddReplica.Partition, c.AddReplica.Node, c.AddReplica.Generation)
	case c.PromoteReplica != nil:
		return fmt.Sprintf("partition %d: promote replica %s/%d", c.PromoteReplica.Partition, c.PromoteReplica.Node, c.PromoteReplica.Generation)
	case c.RemoveReplica != nil:
		return fmt.Sprintf("partition %d: remove replica %s/%d", c.RemoveReplica.Partition, c.RemoveReplica.Node, c.RemoveReplica.Generation)
	case c.RemoveNode != nil:
		return fmt.Sprintf("remove node %s for ever", c.RemoveNode.Node)
	}
	return "no command"
}

// Lengths in bytes, so that one node cannot swell the state of all.
const (
	maxNameBytes  = 32
	maxIDBytes    = 64
	maxOtherBytes = 255 // the longest host name; also for zones and versions
	maxSecret     = 64  // longer ones add nothing to HMAC-SHA256
)

func (s Settings) check() error {
	if err := partition.ValidCount(s.Partitions); err != nil {
		return err
	}
	if s.ReplicationFactor < 1 || s.ReplicationFactor > MaxReplicationFactor {
		return fmt.Errorf("replication factor must be from 1 to %d, not %d", MaxReplicationFactor, s.ReplicationFactor)
	}
	if s.BootstrapExpect < 0 {
		return fmt.Errorf("bootstrap expect must not be negative, but is %d", s.BootstrapExpect)
	}
	if n := len(s.Secret); n > maxSecret || n > 0 && n < SecretBytes {
		return fmt.Errorf("a secret of %d bytes, not of %d to %d", n, SecretBytes, maxSecret)
	}
	return nil
}

func (s Settings) empty() bool {
	return s.Partitions == 0 && s.ReplicationFactor == 0 && s.BootstrapExpect == 0 && s.CreatedUnixMs == 0 && len(s.Secret) == 0
}

func (n Node) check() error {
	if n.Name == "" || len(n.Name) > maxNameBytes {
		return fmt.Errorf("node name %q is not of 1 to %d bytes", n.Name, maxNameBytes)
	}
	if !strings.HasPrefix(string(n.ID), n.Name+"-") || len(n.ID) > maxIDBytes {
		return fmt.Errorf("node id %q is not its name %q, a dash and at most %d bytes in all", n.ID, n.Name, maxIDBytes)
	}
	if n.Peer == "" {
		return fmt.Errorf("node %s has no peer address", n.ID)
	}
	for _, s := range []string{string(n.ID), n.Zone, n.API, n.Peer, n.Gossip, n.Version} {
		if len(s) > maxOtherBytes {
			return fmt.Errorf("node %s: a text of %d bytes, at most %d fit", n.ID, len(s), maxOtherBytes)
		}
		if !utf8.ValidString(s) {
			return fmt.Errorf("node %q: %q is not UTF-8", n.ID, s)
		}
	}
	if n.StartCounter == 0 || n.Incarnation == 0 {
		return fmt.Errorf("node %s: start counter and incarnation begin at 1", n.ID)
	}
	return nil
}
