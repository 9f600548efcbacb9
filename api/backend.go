package api

import (
	"context"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// KV executes operations on keys. Requests have been validated before they
// get here: a backend sees only options that fit together.
//
// Errors are [*replication.Error], a context's error, or [ErrUnimplemented];
// anything else is answered as internal, with an unknown outcome for a write.
// All methods are called concurrently. A response is the caller's once it was
// returned; what is given to emit is sent and not changed.
//
// A request's session is empty, one token, or several with [TokenSeparator]
// between them, whose past is that of all. It has been checked for nothing but
// its length. The session of an answer, or of an error, holds that of the
// request: it may replace it.
type KV interface {
	// Get answers an absent key with Found unset and no error.
	Get(context.Context, *capstanv1.GetRequest) (*capstanv1.GetResponse, error)
	Put(context.Context, *capstanv1.PutRequest) (*capstanv1.PutResponse, error)
	// Delete of an absent key is no error.
	Delete(context.Context, *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error)
	// Scan calls emit with keys in byte order, from one goroutine, each message
	// well below [MaxMessageSize]. The last message, and only it, carries End. An error
	// of emit ends the scan and is returned as it is.
	Scan(ctx context.Context, req *capstanv1.ScanRequest, emit func(*capstanv1.ScanResponse) error) error
	AwaitWrite(context.Context, *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error)
	// ListConflicts calls emit as Scan does, but that nothing marks the end.
	ListConflicts(ctx context.Context, req *capstanv1.ListConflictsRequest, emit func(*capstanv1.ListConflictsResponse) error) error
	// MergeSessions makes one token of several sessions, none of them empty: what
	// any of them saw or wrote, it has. Repetitions are allowed. It may drop what
	// every replica has applied, and so answer with "". It fails with
	// [replication.BadToken] if one is none of the cluster's, or if the result
	// would be over [MaxTokenSize].
	MergeSessions(ctx context.Context, sessions []string) (string, error)
}

// Cluster answers questions about nodes and partitions, and moves them. Errors
// and concurrency are as for [KV].
type Cluster interface {
	GetStatus(context.Context, *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error)
	LocateKey(context.Context, *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error)
	DrainNode(context.Context, *capstanv1.DrainNodeRequest) (*capstanv1.DrainNodeResponse, error)
	RemoveNode(context.Context, *capstanv1.RemoveNodeRequest) (*capstanv1.RemoveNodeResponse, error)
	TransferLeadership(context.Context, *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error)
	// CompareReplicas answers that it is pending when ctx is about to end.
	CompareReplicas(context.Context, *capstanv1.CompareReplicasRequest) (*capstanv1.CompareReplicasResponse, error)
}

// Chaos cuts this node off from others, for show. Errors and concurrency are
// as for [KV].
type Chaos interface {
	// SetCut replaces the cut there is. Nodes are names or ids, at most
	// [MaxCutNodes], perhaps repeated; one that is unknown, or this one, is
	// refused with [replication.BadOption].
	SetCut(context.Context, *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error)
	GetCut(context.Context, *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error)
}

// Health says how the node is. Both methods are called concurrently and often
// (a probe a second): they look, they do not work.
type Health interface {
	// Live is nil while the process can do anything useful at all.
	Live() error
	// Ready is nil once storage is open, the ring is known and each replica has
	// caught up since the start or has no leader to catch up from. It does not
	// fail for a lost quorum, unless level is linearizable. Level is
	// CONSISTENCY_UNSPECIFIED or CONSISTENCY_LINEARIZABLE.
	Ready(ctx context.Context, level capstanv1.Consistency) error
}
