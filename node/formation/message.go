package formation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/capstan-kv/capstan/partition"
)

const (
	// messageFormat changes when a message's meaning does.
	messageFormat = 1
	// MaxMessageBytes bounds one message: MaxExpect ids of 64 bytes, with room.
	MaxMessageBytes = 16 << 10
	// maxReasonBytes bounds what a refusal may say.
	maxReasonBytes = 512
)

// ErrMessage says that a message is not what this protocol sends.
var ErrMessage = errors.New("malformed formation message")

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// PromiseRequest asks a node for its promise to one formation.
type PromiseRequest struct {
	Format int `json:"format"`
	// Formation is the id that the cluster will have.
	Formation string `json:"formation"`
	// Founder asks, To is asked: under another id it is another node.
	Founder partition.NodeID `json:"founder"`
	To      partition.NodeID `json:"to"`
	// Set are the nodes asked, sorted, the founder first: as many as it expects.
	Set []partition.NodeID `json:"set"`
}

// PromiseReply answers a PromiseRequest: granted, or the cluster that the node
// belongs to, or why not.
type PromiseReply struct {
	Format    int              `json:"format"`
	Formation string           `json:"formation"`
	Node      partition.NodeID `json:"node"`
	Granted   bool             `json:"granted"`
	ClusterID string           `json:"cluster_id"`
	Reason    string           `json:"reason"`
}

// Encode gives the request's bytes.
func (r PromiseRequest) Encode() ([]byte, error) { return encode(r, r.check()) }

// Encode gives the reply's bytes.
func (r PromiseReply) Encode() ([]byte, error) { return encode(r, r.check()) }

// DecodeRequest reads a request strictly; errors are ErrMessage.
func DecodeRequest(data []byte) (PromiseRequest, error) {
	return decode(data, PromiseRequest.check)
}

// DecodeReply reads a reply strictly; errors are ErrMessage.
func DecodeReply(data []byte) (PromiseReply, error) {
	return decode(data, PromiseReply.check)
}

func (r PromiseRequest) check() error {
	sorted := slices.IsSortedFunc(r.Set, func(a, b partition.NodeID) int {
		if a < b {
			return -1
		}
		return 1 // an equal one is out of order too
	})
	switch {
	case r.Format != messageFormat:
		return fmt.Errorf("format %d", r.Format)
	case !idPattern.MatchString(r.Formation):
		return fmt.Errorf("formation %q", r.Formation)
	case len(r.Set) == 0 || len(r.Set) > MaxExpect:
		return fmt.Errorf("a set of %d nodes", len(r.Set))
	case !sorted:
		return errors.New("the set is not sorted")
	case r.Set[0] != r.Founder:
		return errors.New("the founder is not the set's first")
	case !slices.Contains(r.Set, r.To):
		return errors.New("the node asked is not in the set")
	}
	for _, id := range r.Set {
		if !idPattern.MatchString(string(id)) {
			return fmt.Errorf("node %q", id)
		}
	}
	return nil
}

func (r PromiseReply) check() error {
	switch {
	case r.Format != messageFormat:
		return fmt.Errorf("format %d", r.Format)
	case !idPattern.MatchString(r.Formation):
		return fmt.Errorf("formation %q", r.Formation)
	case !idPattern.MatchString(string(r.Node)):
		return fmt.Errorf("node %q", r.Node)
	case r.ClusterID != "" && !idPattern.MatchString(r.ClusterID):
		return fmt.Errorf("cluster %q", r.ClusterID)
	case r.Granted && r.ClusterID != "":
		return errors.New("granted by a member of a cluster")
	case len(r.Reason) > maxReasonBytes:
		return fmt.Errorf("a reason of %d bytes", len(r.Reason))
	}
	return nil
}

func encode(message any, invalid error) ([]byte, error) {
	if invalid != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, invalid)
	}
	return json.Marshal(message)
}

func decode[M any](data []byte, check func(M) error) (M, error) {
	var message, none M
	if len(data) > MaxMessageBytes {
		return none, fmt.Errorf("%w: %d bytes", ErrMessage, len(data))
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&message); err != nil {
		return none, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return none, fmt.Errorf("%w: bytes after the message", ErrMessage)
	}
	if err := check(message); err != nil {
		return none, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return message, nil
}
