package transport

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/knowledge"
	"github.com/capstan-kv/capstan/storage"
)

// open is a replica's transport, introduced as a new one.
func open(t *Transport, r storage.Replica) *GroupTransport {
	g := t.Group(r)
	g.Introduce(knowledge.Claim{}, "")
	return g
}

// lonely is a transport with one link whose other end nobody reads.
func lonely() (*Transport, *link) {
	t, err := New(Config{
		Self:    "n1",
		Dial:    func(context.Context, string) (net.Conn, error) { return nil, errors.New("none") },
		Resolve: func(partition.NodeID) (string, bool) { return "", false },
	})
	if err != nil {
		panic(err)
	}
	t.Handle(kindEcho, func(_ context.Context, _ partition.NodeID, p []byte) ([]byte, error) { return p, nil })
	_ = open(t, storage.Replica{Group: 1, Generation: 3})
	c, _ := net.Pipe()
	return t, newLink(t.peer("n2"), c, Hello{From: "n2"}, true)
}

func loopback(b *testing.B) (*Transport, *Transport) {
	addr := map[partition.NodeID]string{}
	begin := func(id partition.NodeID) *Transport {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addr[id] = l.Addr().String()
		t, err := New(Config{
			Self: id, Listener: l,
			Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
			Resolve: func(id partition.NodeID) (string, bool) { return addr[id], true },
		})
		if err != nil {
			b.Fatal(err)
		}
		t.Handle(kindEcho, func(_ context.Context, _ partition.NodeID, p []byte) ([]byte, error) { return p, nil })
		b.Cleanup(func() { _ = t.Close() })
		return t
	}
	return begin("a"), begin("b")
}

func batch() *raft.AppendEntriesRequest {
	args := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 9, PrevLogTerm: 1, LeaderCommitIndex: 9}
	for i := range 16 {
		args.Entries = append(args.Entries, &raft.Log{
			Index: uint64(10 + i), Term: 1, Data: bytes.Repeat([]byte{1}, 300), AppendedAt: time.Unix(1, 1),
		})
	}
	return args
}

func BenchmarkCall(b *testing.B) {
	one, _ := loopback(b)
	payload := make([]byte, 256)
	call := func() {
		if _, err := one.Call(context.Background(), "b", kindEcho, payload); err != nil {
			b.Fatal(err)
		}
	}
	call()
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	b.Run("64 at a time", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				call()
			}
		})
	})
}

func BenchmarkAppendEntries(b *testing.B) {
	one, two := loopback(b)
	r := storage.Replica{Group: 1, Generation: 1}
	g := open(one, r)
	defer serve(open(two, r), success)()
	args := batch()
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(16 * 300)
		for b.Loop() {
			if err := g.AppendEntries("b/1", "", args, new(raft.AppendEntriesResponse)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	payload := appendAppendEntries(appendEnvelope(nil, envelope{1, 1, 1, rpcAppendEntries}), batch())
	buffer := make([]byte, 0, writeBatch)
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		buffer = appendFrame(buffer[:0], msgRaft, bulk, flagFirst|flagLast, 1, payload)
	}
}
