package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/capstan-kv/capstan/partition"
)

// Format is the format of node.json that this version writes. It reads format 1
// too: that one counts every start, and has no registrations and no refusals.
const Format = 2

const (
	// maxRecordBytes bounds what is read of node.json: a record is some 200
	// bytes, and anything near this is not ours.
	maxRecordBytes = 16 << 10
	// maxClusterIDBytes bounds a cluster id, which travels in gossip tags of 512
	// bytes in all.
	maxClusterIDBytes = 64
	// maxReasonBytes bounds a refusal's reason, which another node words.
	maxReasonBytes = 512
)

var (
	// ErrNewerFormat says that a newer version of the program wrote the directory.
	ErrNewerFormat = errors.New("written by a newer version")
	// ErrCorrupt says that node.json is there but not what this program writes.
	ErrCorrupt = errors.New("node.json is damaged")
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	nodeIDPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?-[a-z0-9]{4}$`)
	clusterPattern = regexp.MustCompile(fmt.Sprintf(`^[a-z0-9][a-z0-9-]{0,%d}$`, maxClusterIDBytes-1))
)

// record is node.json.
type record struct {
	Format  int              `json:"format"`
	NodeID  partition.NodeID `json:"node_id"`
	Cluster string           `json:"cluster_id"`
	Label   string           `json:"cluster_name,omitempty"`
	// Starts is the highest start number that this directory has used.
	Starts  uint64    `json:"starts"`
	Created time.Time `json:"created"`
	// Registered is the last start that the cluster confirmed, Attempt one that it
	// was told of later and did not confirm. Each is nil if there is none.
	Registered *Start   `json:"registered,omitempty"`
	Attempt    *Start   `json:"attempt,omitempty"`
	Marks      bool     `json:"marks,omitempty"`
	Refused    *Refusal `json:"refused,omitempty"`
}

// Start names one start of a node as the cluster registers it.
type Start struct {
	// Number counts the starts that the cluster was told of, from 1.
	Number uint64 `json:"start"`
	// Incarnation is drawn at random at each start, and not 0.
	Incarnation uint64 `json:"incarnation"`
}

// Refusal is the cluster's definite answer that it will never take this
// directory again.
type Refusal struct {
	// Reason completes the sentence "the cluster refuses this data directory:".
	Reason string `json:"reason"`
	// By is the node that reported the refusal.
	By partition.NodeID `json:"by"`
	// At is when the refusal was stored, in UTC, by the machine's clock.
	At time.Time `json:"at"`
}

// Error is the sentence that this start and every later one ends with.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%v: %s (%s said so at %s): start with an empty data directory to come back as a new node",
		ErrRefused, r.Reason, r.By, r.At.Format(time.RFC3339))
}

// Is reports that a refusal is an [ErrRefused].
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

func (r record) encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// decodeRecord reads node.json strictly. The format is looked at first, so that
// the fields a newer version has added are not mistaken for damage.
func decodeRecord(data []byte) (record, error) {
	var version struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	switch {
	case version.Format == nil || *version.Format < 1:
		return record{}, fmt.Errorf("%w: no format", ErrCorrupt)
	case *version.Format > Format:
		return record{}, fmt.Errorf("%w: format %d, this version knows %d", ErrNewerFormat, *version.Format, Format)
	}
	var r record
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return record{}, fmt.Errorf("%w: more than one record", ErrCorrupt)
	}
	switch {
	case !nodeIDPattern.MatchString(string(r.NodeID)):
		return record{}, fmt.Errorf("%w: %q is no node id", ErrCorrupt, r.NodeID)
	case r.Cluster != "" && !clusterPattern.MatchString(r.Cluster):
		return record{}, fmt.Errorf("%w: %q is no cluster id", ErrCorrupt, r.Cluster)
	case r.Starts == 0 && *version.Format == 1:
		return record{}, fmt.Errorf("%w: never started", ErrCorrupt)
	case r.Registered != nil && (r.Registered.Incarnation == 0 || r.Registered.Number > r.Starts):
		return record{}, fmt.Errorf("%w: registered start %d of %d", ErrCorrupt, r.Registered.Number, r.Starts)
	case r.Attempt != nil && (r.Attempt.Incarnation == 0 || r.Attempt.Number != r.Starts):
		return record{}, fmt.Errorf("%w: attempted start %d of %d", ErrCorrupt, r.Attempt.Number, r.Starts)
	case r.Refused != nil && r.Refused.Reason == "":
		return record{}, fmt.Errorf("%w: a refusal without a reason", ErrCorrupt)
	}
	r.Format = Format
	return r, nil
}

// join makes the node a member of the cluster.
func (r *record) join(cluster string) error {
	switch {
	case !clusterPattern.MatchString(cluster):
		return fmt.Errorf("cluster id %q: 1 to %d of a-z, 0-9 and dashes", cluster, maxClusterIDBytes)
	case r.Cluster != "" && r.Cluster != cluster:
		return fmt.Errorf("%w: node %s belongs to %s, not to %s", ErrOtherCluster, r.NodeID, r.Cluster, cluster)
	}
	r.Cluster = cluster
	return nil
}

// name is the node id without its random characters.
func (r record) name() string { return string(r.NodeID[:len(r.NodeID)-suffixLength-1]) }
