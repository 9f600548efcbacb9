package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// hopKind says which operation a forwarded frame carries.
type hopKind uint8

const (
	hopGet hopKind = 1 + iota
	hopPut
	hopDelete
	hopScanOpen
	hopScanNext
	hopTransfer
	hopHeard     // what an eventual write should have heard of
	_            // an eventual read, in a frame of an earlier release
	hopFate      // what became of an eventual write
	hopConflicts // a page of conflicts
	hopNear      // an eventual read
	hopCheck     // a check command, for a comparison of replicas
)

// A forwarded operation travels as one byte of kind and the public request
// message. Its arrival by this way is the mark: who receives it answers from
// its own replica or refuses, and never passes it on.
func encodeHop(kind hopKind, request proto.Message) ([]byte, error) {
	buf := make([]byte, 1, 1+proto.Size(request))
	buf[0] = byte(kind)
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, request)
}

func decodeHop(frame []byte) (hopKind, proto.Message, error) {
	if len(frame) == 0 {
		return 0, nil, errors.New("forwarded operation: empty frame")
	}
	var request proto.Message
	switch kind := hopKind(frame[0]); kind {
	case hopGet:
		request = new(capstanv1.GetRequest)
	case hopPut:
		request = new(capstanv1.PutRequest)
	case hopDelete:
		request = new(capstanv1.DeleteRequest)
	default:
		return 0, nil, fmt.Errorf("forwarded operation: unknown kind %d", kind)
	}
	if err := proto.Unmarshal(frame[1:], request); err != nil {
		return 0, nil, fmt.Errorf("forwarded operation: %w", err)
	}
	return hopKind(frame[0]), request, nil
}

// hopError is a *replication.Error between two nodes. Refusals are rare beside
// answers, so that the plain encoding serves.
type hopError struct {
	Reason    replication.Reason
	Outcome   replication.Outcome
	Message   string
	Try       string           `json:",omitempty"`
	NotLeader bool             `json:",omitempty"`
	Leader    partition.NodeID `json:",omitempty"`
	Current   *storage.Version `json:",omitempty"`
	Reachable int              `json:",omitempty"`
	Needed    int              `json:",omitempty"`
	Receipt   string           `json:",omitempty"`
	Session   string           `json:",omitempty"`
}

func encodeHopError(e *replication.Error) []byte {
	data, err := json.Marshal(hopError{
		Reason: e.Reason, Outcome: e.Outcome, Message: e.Error(), Try: e.Try, NotLeader: e.NotLeader,
		Leader: e.Leader, Current: e.Current, Reachable: e.Reachable, Needed: e.Needed,
		Receipt: e.Receipt, Session: e.Session,
	})
	if err != nil {
		panic(fmt.Sprintf("node: a struct of plain fields does not encode: %v", err))
	}
	return data
}

func decodeHopError(data []byte) (*replication.Error, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var e hopError
	if err := decoder.Decode(&e); err != nil {
		return nil, fmt.Errorf("forwarded operation: refusal: %w", err)
	}
	if e.Outcome != replication.NotApplied && e.Outcome != replication.Unknown {
		return nil, fmt.Errorf("forwarded operation: refusal: outcome %d", e.Outcome)
	}
	return &replication.Error{
		Reason: e.Reason, Outcome: e.Outcome, Message: e.Message, Try: e.Try, NotLeader: e.NotLeader,
		Leader: e.Leader, Current: e.Current, Reachable: e.Reachable, Needed: e.Needed,
		Receipt: e.Receipt, Session: e.Session,
	}, nil
}
