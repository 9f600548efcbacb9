package transport

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func FuzzFrames(f *testing.F) {
	var two []byte
	two = appendFrame(two, msgCall, bulk, flagFirst, 7, []byte("half "))
	two = appendFrame(two, msgPing, control, flagFirst|flagLast, 0, nil)
	two = appendFrame(two, msgCall, bulk, flagLast, 7, []byte("whole"))
	f.Add(two)
	f.Add(two[:len(two)-3])
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00\x01\x00\x03\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := assembler{r: bytes.NewReader(b)}
		total := 0
		for {
			m, err := a.next()
			if err != nil {
				return
			}
			if total += len(m.payload); total > len(b) {
				t.Fatalf("%d bytes of payload out of %d", total, len(b))
			}
		}
	})
}

func TestDamagedFramesAreNoticed(t *testing.T) {
	whole := appendFrame(nil, msgCall, bulk, flagFirst|flagLast, 7, []byte("payload"))
	for i := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			a := assembler{r: bytes.NewReader(damaged)}
			if m, err := a.next(); err == nil {
				t.Errorf("byte %d bit %d: %+v", i, bit, m)
			}
		}
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(greeting{version: protocolVersion, hello: Hello{Cluster: "c", From: "n1-k3f9", To: "n2-p7wd", Incarnation: 5, Start: 6}}.encode())
	f.Add(greeting{version: protocolVersion, verdict: refusedAdmit, hello: Hello{From: "n1"}, text: "another cluster"}.encode())
	f.Add(greeting{version: 9}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := readGreeting(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readGreeting(bytes.NewReader(g.encode()))
		if err != nil || again != g {
			t.Fatalf("%+v became %+v, %v", g, again, err)
		}
		_ = g.refusal()
	})
}

// requests has one of each kind, with what follows the envelope.
func requests() map[rpcKind][]byte {
	at := raft.RPCHeader{ProtocolVersion: 3}
	return map[rpcKind][]byte{
		rpcAppendEntries: appendAppendEntries(nil, &raft.AppendEntriesRequest{
			RPCHeader: at, Term: 4, PrevLogEntry: 3, PrevLogTerm: 2, LeaderCommitIndex: 1, Entries: []*raft.Log{
				{Index: 4, Term: 4, Data: []byte("data"), Extensions: []byte("more"), AppendedAt: time.Unix(1, 2)},
				{Index: 5, Term: 4, Type: raft.LogNoop},
			}}),
		rpcRequestVote:    appendRequest(nil, &raft.RequestVoteRequest{RPCHeader: at, Term: 4, LastLogIndex: 3, LastLogTerm: 2, LeadershipTransfer: true}),
		rpcRequestPreVote: appendRequest(nil, &raft.RequestPreVoteRequest{RPCHeader: at, Term: 4, LastLogIndex: 3, LastLogTerm: 2}),
		rpcTimeoutNow:     appendRequest(nil, &raft.TimeoutNowRequest{RPCHeader: at}),
		rpcInstallSnapshot: appendRequest(nil, &raft.InstallSnapshotRequest{RPCHeader: at, SnapshotVersion: 1, Term: 4, LastLogIndex: 3,
			LastLogTerm: 2, Configuration: []byte("conf"), ConfigurationIndex: 1, Size: 9}),
	}
}

// FuzzRequest: whatever decodes, encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	for kind, b := range requests() {
		f.Add(byte(kind), b)
		f.Add(byte(kind), b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		d := decoder{b: b}
		request, err := d.request(rpcKind(kind), "n1/1")
		if err != nil {
			return
		}
		var again []byte
		if r, ok := request.(*raft.AppendEntriesRequest); ok {
			again = appendAppendEntries(nil, r)
		} else {
			again = appendRequest(nil, request)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// FuzzResponse: the same for answers.
func FuzzResponse(f *testing.F) {
	kinds := []func() any{
		func() any { return new(raft.AppendEntriesResponse) },
		func() any { return new(raft.RequestVoteResponse) },
		func() any { return new(raft.RequestPreVoteResponse) },
		func() any { return new(raft.TimeoutNowResponse) },
		func() any { return new(raft.InstallSnapshotResponse) },
	}
	for i, kind := range kinds {
		b, _ := appendResponse(nil, kind())
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		response := kinds[int(kind)%len(kinds)]()
		if decodeResponse(b, response) != nil {
			return
		}
		if again, err := appendResponse(nil, response); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

// FuzzMessage: no message of a peer, however malformed, brings the node down.
func FuzzMessage(f *testing.F) {
	for kind, b := range requests() {
		typ := msgRaft
		if kind == rpcInstallSnapshot {
			typ = msgSnapshotOpen
		}
		f.Add(byte(typ), uint64(1), append(appendEnvelope(nil, envelope{1, 2, 3, kind}), b...))
	}
	f.Add(byte(msgHeartbeats), uint64(0), make([]byte, 3*beatSize))
	f.Add(byte(msgHeartbeatAnswers), uint64(0), make([]byte, 3*beatAnswerSize))
	f.Add(byte(msgCall), uint64(2), []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00payload"))
	f.Add(byte(msgCallAnswer), uint64(2), []byte{codeError, 3, 'n', 'o'})
	f.Add(byte(msgSnapshotEnd), uint64(9), make([]byte, 8))
	f.Add(byte(msgSnapshotAck), uint64(9), make([]byte, 8))
	f.Fuzz(func(t *testing.T, typ byte, id uint64, payload []byte) {
		tr, l := lonely()
		defer func() { l.fail(ErrClosed); _ = tr.Close() }()
		_ = l.dispatch(message{typ: messageType(typ), id: id, payload: payload})
	})
}

func TestAnswerErrors(t *testing.T) {
	for _, err := range []error{ErrBusy, &RemoteError{Code: 9, Payload: []byte("text")}} {
		if got := answerError(errorAnswer(err)); !reflect.DeepEqual(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
