package transport

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

type rpcKind uint8

const (
	rpcAppendEntries rpcKind = iota + 1
	rpcRequestVote
	rpcRequestPreVote
	rpcTimeoutNow
	rpcInstallSnapshot
)

// envelope precedes every Raft request: which replica speaks to which. Ids and
// addresses in Raft's own headers are not sent: they follow from it and from
// the connection.
type envelope struct {
	group    storage.GroupID
	from, to uint32 // generations
	kind     rpcKind
}

// sender is the replica that speaks.
func (e envelope) sender() storage.Replica {
	return storage.Replica{Group: e.group, Generation: e.from}
}

const (
	entryHeader  = 33
	appendHeader = 13 + 1 + 4*8 + 4
)

func appendEnvelope(b []byte, e envelope) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(e.group))
	b = binary.LittleEndian.AppendUint32(b, e.from)
	b = binary.LittleEndian.AppendUint32(b, e.to)
	return append(b, byte(e.kind))
}

func (d *decoder) envelope() envelope {
	return envelope{storage.GroupID(d.u32()), d.u32(), d.u32(), rpcKind(d.u8())}
}

func appendUints(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendBytes(b, v []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

func (d *decoder) sized() []byte {
	n := d.u32()
	if n == 0 || uint64(n) > uint64(len(d.b)) {
		d.bad = d.bad || n > 0
		return nil
	}
	return d.bytes(int(n))
}

func entrySize(e *raft.Log) int { return entryHeader + len(e.Data) + len(e.Extensions) }

func appendAppendEntries(b []byte, r *raft.AppendEntriesRequest) []byte {
	b = append(b, byte(r.ProtocolVersion))
	b = appendUints(b, r.Term, r.PrevLogEntry, r.PrevLogTerm, r.LeaderCommitIndex)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Entries)))
	for _, e := range r.Entries {
		var at int64 // 0: the zero time
		if !e.AppendedAt.IsZero() {
			at = e.AppendedAt.UnixNano()
		}
		b = appendUints(b, e.Index, e.Term, uint64(at))
		b = append(b, byte(e.Type))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Data)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Extensions)))
		b = append(append(b, e.Data...), e.Extensions...)
	}
	return b
}

// appendEntries decodes one; entries point into the message.
func (d *decoder) appendEntries() *raft.AppendEntriesRequest {
	r := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.u8())}}
	r.Term, r.PrevLogEntry, r.PrevLogTerm, r.LeaderCommitIndex = d.u64(), d.u64(), d.u64(), d.u64()
	n := uint64(d.u32())
	if d.bad || n*entryHeader > uint64(len(d.b)) {
		d.bad = true
		return r
	}
	if n == 0 {
		return r
	}
	logs := make([]raft.Log, n) // one allocation for all
	r.Entries = make([]*raft.Log, n)
	for i := range logs {
		e := &logs[i]
		r.Entries[i] = e
		e.Index, e.Term = d.u64(), d.u64()
		if at := int64(d.u64()); at != 0 {
			e.AppendedAt = time.Unix(0, at)
		}
		e.Type = raft.LogType(d.u8())
		data, extensions := int(d.u32()), int(d.u32())
		if data > 0 {
			e.Data = d.bytes(data)
		}
		if extensions > 0 {
			e.Extensions = d.bytes(extensions)
		}
	}
	return r
}

// appendRequest encodes everything but AppendEntries and snapshots.
func appendRequest(b []byte, request any) []byte {
	switch r := request.(type) {
	case *raft.RequestVoteRequest:
		b = appendUints(append(b, byte(r.ProtocolVersion)), r.Term, r.LastLogIndex, r.LastLogTerm)
		return appendBool(b, r.LeadershipTransfer)
	case *raft.RequestPreVoteRequest:
		return appendUints(append(b, byte(r.ProtocolVersion)), r.Term, r.LastLogIndex, r.LastLogTerm)
	case *raft.TimeoutNowRequest:
		return append(b, byte(r.ProtocolVersion))
	case *raft.InstallSnapshotRequest:
		b = append(b, byte(r.ProtocolVersion), byte(r.SnapshotVersion))
		b = appendUints(b, r.Term, r.LastLogIndex, r.LastLogTerm, r.ConfigurationIndex, uint64(r.Size))
		return appendBytes(appendBytes(b, r.Configuration), r.Peers)
	}
	panic(fmt.Sprintf("transport: request %T", request))
}

// request decodes what follows an envelope. from is the sender's server id.
func (d *decoder) request(kind rpcKind, from string) (any, error) {
	head := raft.RPCHeader{ID: []byte(from), Addr: []byte(from)}
	var request any
	switch kind {
	case rpcAppendEntries:
		r := d.appendEntries()
		head.ProtocolVersion = r.ProtocolVersion
		r.RPCHeader, r.Leader = head, head.Addr
		request = r
	case rpcRequestVote:
		r := &raft.RequestVoteRequest{}
		head.ProtocolVersion = raft.ProtocolVersion(d.u8())
		// Without an id the voter does not ask whether its own configuration knows the
		// candidate, which may be younger: see replication/patience.go.
		head.ID = nil
		r.RPCHeader, r.Candidate = head, head.Addr
		r.Term, r.LastLogIndex, r.LastLogTerm, r.LeadershipTransfer = d.u64(), d.u64(), d.u64(), d.bool()
		request = r
	case rpcRequestPreVote:
		head.ProtocolVersion = raft.ProtocolVersion(d.u8())
		request = &raft.RequestPreVoteRequest{RPCHeader: head, Term: d.u64(), LastLogIndex: d.u64(), LastLogTerm: d.u64()}
	case rpcTimeoutNow:
		head.ProtocolVersion = raft.ProtocolVersion(d.u8())
		request = &raft.TimeoutNowRequest{RPCHeader: head}
	case rpcInstallSnapshot:
		r := &raft.InstallSnapshotRequest{}
		head.ProtocolVersion = raft.ProtocolVersion(d.u8())
		r.RPCHeader, r.Leader = head, head.Addr
		r.SnapshotVersion = raft.SnapshotVersion(d.u8())
		r.Term, r.LastLogIndex, r.LastLogTerm, r.ConfigurationIndex = d.u64(), d.u64(), d.u64(), d.u64()
		r.Size = int64(d.u64())
		r.Configuration, r.Peers = d.sized(), d.sized()
		request = r
	default:
		return nil, fmt.Errorf("%w: Raft request kind %d", ErrProtocol, kind)
	}
	return request, d.finish()
}

// appendResponse encodes any of Raft's responses. Their headers carry nothing
// but the protocol version.
func appendResponse(b []byte, response any) ([]byte, error) {
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		b = appendUints(append(b, byte(r.ProtocolVersion)), r.Term, r.LastLog)
		return appendBool(appendBool(b, r.Success), r.NoRetryBackoff), nil
	case *raft.RequestVoteResponse:
		return appendBool(appendUints(append(b, byte(r.ProtocolVersion)), r.Term), r.Granted), nil
	case *raft.RequestPreVoteResponse:
		return appendBool(appendUints(append(b, byte(r.ProtocolVersion)), r.Term), r.Granted), nil
	case *raft.TimeoutNowResponse:
		return append(b, byte(r.ProtocolVersion)), nil
	case *raft.InstallSnapshotResponse:
		return appendBool(appendUints(append(b, byte(r.ProtocolVersion)), r.Term), r.Success), nil
	}
	return b, fmt.Errorf("transport: response %T", response)
}

// decodeResponse fills the response of a request.
func decodeResponse(body []byte, response any) error {
	d := decoder{b: body}
	version := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(d.u8())}
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		*r = raft.AppendEntriesResponse{RPCHeader: version, Term: d.u64(), LastLog: d.u64(), Success: d.bool(), NoRetryBackoff: d.bool()}
	case *raft.RequestVoteResponse:
		*r = raft.RequestVoteResponse{RPCHeader: version, Term: d.u64(), Granted: d.bool()}
	case *raft.RequestPreVoteResponse:
		*r = raft.RequestPreVoteResponse{RPCHeader: version, Term: d.u64(), Granted: d.bool()}
	case *raft.TimeoutNowResponse:
		*r = raft.TimeoutNowResponse{RPCHeader: version}
	case *raft.InstallSnapshotResponse:
		*r = raft.InstallSnapshotResponse{RPCHeader: version, Term: d.u64(), Success: d.bool()}
	default:
		return fmt.Errorf("transport: response %T", response)
	}
	return d.finish()
}

// target is a parsed server id, "<node id>/<generation>".
type target struct {
	node       partition.NodeID
	generation uint32
}
