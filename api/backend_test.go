package api

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// memory is a backend of one map, with real conditions.
type memory struct {
	mu     sync.Mutex
	index  uint64
	values map[string]*capstanv1.Entry
	calls  int
	// before, if set, runs in front of each operation; its error is the answer.
	before func(ctx context.Context, op string, key []byte) error
	ready  error
	// token, if set, gives an answer's session: of the request's, the operation and
	// its key.
	token  func(session, op string, key []byte) string
	merged [][]string // what MergeSessions was asked for
	cut    []string
	// limited: the last SetCut came with a deadline.
	limited bool
}

func (m *memory) session(session, op string, key []byte) string {
	if m.token == nil {
		return ""
	}
	return m.token(session, op, key)
}

// tentative is the version of an eventual write.
func tentative(v *capstanv1.Version) *capstanv1.Version {
	return &capstanv1.Version{Timestamp: v.GetTimestamp(), Node: v.GetNode()}
}

func (m *memory) enter(ctx context.Context, op string, key []byte) error {
	m.mu.Lock()
	m.calls++
	m.mu.Unlock()
	if m.before != nil {
		return m.before(ctx, op, key)
	}
	return nil
}

func (m *memory) seen() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

func (m *memory) value(key string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.values[key]
	return string(e.GetValue()), ok
}

func (m *memory) set(key, value string) *capstanv1.Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write([]byte(key), []byte(value))
}

func (m *memory) write(key, value []byte) *capstanv1.Version {
	m.index++
	v := &capstanv1.Version{Index: m.index, Timestamp: m.index << 16, Node: "n1-aaaa"}
	if m.values == nil {
		m.values = map[string]*capstanv1.Entry{}
	}
	m.values[string(key)] = &capstanv1.Entry{Key: key, Value: value, Version: v}
	return v
}

func (m *memory) test(key []byte, c *capstanv1.Condition) error {
	e, present := m.values[string(key)]
	ok := true
	switch test := c.GetTest().(type) {
	case *capstanv1.Condition_Absent:
		ok = !present
	case *capstanv1.Condition_Present:
		ok = present
	case *capstanv1.Condition_Version:
		ok = present && proto.Equal(e.Version, test.Version)
	}
	if ok {
		return nil
	}
	failed := &replication.Error{Reason: replication.ConditionFailed, Outcome: replication.NotApplied, Message: "condition failed"}
	if present {
		v, _ := storage.ParseVersion(versionText(e.Version))
		failed.Current = &v
	}
	return failed
}

func (m *memory) Get(ctx context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := m.enter(ctx, "get", r.Key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.values[string(r.Key)]
	res := &capstanv1.GetResponse{
		Found: found, Value: e.GetValue(), Version: e.GetVersion(),
		Freshness: &capstanv1.Freshness{ServedBy: "n1", Staleness: durationpb.New(0)},
		Session:   m.session(r.Session, "get", r.Key),
	}
	switch r.Consistency {
	case bounded:
		res.Freshness.Staleness = r.MaxStaleness
	case eventual:
		res.Freshness = &capstanv1.Freshness{ServedBy: "n1", Tentative: true}
		res.Version = tentative(res.Version)
	}
	return res, nil
}

func (m *memory) Put(ctx context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := m.enter(ctx, "put", r.Key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.test(r.Key, r.Condition); err != nil {
		return nil, err
	}
	res := &capstanv1.PutResponse{Version: m.write(r.Key, r.Value), ServedBy: "n1", Session: m.session(r.Session, "put", r.Key)}
	if r.Consistency == eventual {
		res.Version, res.Receipt, res.Base = tentative(res.Version), "wr_"+string(r.Key), 7
	}
	return res, nil
}

func (m *memory) Delete(ctx context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := m.enter(ctx, "delete", r.Key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.test(r.Key, r.Condition); err != nil {
		return nil, err
	}
	_, existed := m.values[string(r.Key)]
	v := m.write(r.Key, nil)
	delete(m.values, string(r.Key))
	res := &capstanv1.DeleteResponse{Version: v, Existed: &existed, ServedBy: "n1", Session: m.session(r.Session, "delete", r.Key)}
	if r.Consistency == eventual {
		res.Version, res.Existed, res.Receipt, res.Base = tentative(v), nil, "wr_"+string(r.Key), 7
	}
	return res, nil
}

func (m *memory) Scan(ctx context.Context, r *capstanv1.ScanRequest, emit func(*capstanv1.ScanResponse) error) error {
	if err := m.enter(ctx, "scan", nil); err != nil {
		return err
	}
	m.mu.Lock()
	var entries []*capstanv1.Entry
	for _, e := range m.values {
		if bytes.HasPrefix(e.Key, r.Prefix) {
			entries = append(entries, e)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(entries, func(a, b *capstanv1.Entry) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	for _, e := range entries {
		if err := emit(&capstanv1.ScanResponse{Entries: []*capstanv1.Entry{e}}); err != nil {
			return err
		}
	}
	return emit(&capstanv1.ScanResponse{End: &capstanv1.ScanEnd{Session: m.session(r.Session, "scan", r.Prefix)}})
}

func (m *memory) AwaitWrite(ctx context.Context, _ *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	if err := m.enter(ctx, "await", nil); err != nil {
		return nil, err
	}
	return nil, ErrUnimplemented("receipts")
}

func (m *memory) ListConflicts(ctx context.Context, _ *capstanv1.ListConflictsRequest, _ func(*capstanv1.ListConflictsResponse) error) error {
	if err := m.enter(ctx, "conflicts", nil); err != nil {
		return err
	}
	return ErrUnimplemented("conflicts")
}

func (m *memory) MergeSessions(ctx context.Context, sessions []string) (string, error) {
	if err := m.enter(ctx, "merge", nil); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merged = append(m.merged, slices.Clone(sessions))
	return strings.Join(sessions, "+"), nil
}

func (m *memory) SetCut(ctx context.Context, r *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = r.GetNodes()
	_, m.limited = ctx.Deadline()
	return &capstanv1.SetCutResponse{}, nil
}

func (m *memory) GetCut(context.Context, *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &capstanv1.GetCutResponse{Nodes: m.cut}, nil
}

func (m *memory) GetStatus(ctx context.Context, _ *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error) {
	if err := m.enter(ctx, "status", nil); err != nil {
		return nil, err
	}
	return &capstanv1.GetStatusResponse{ClusterId: "c1", ServedBy: "n1"}, nil
}

func (m *memory) LocateKey(context.Context, *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error) {
	return &capstanv1.LocateKeyResponse{Partition: 9}, nil
}

func (m *memory) DrainNode(context.Context, *capstanv1.DrainNodeRequest) (*capstanv1.DrainNodeResponse, error) {
	return &capstanv1.DrainNodeResponse{}, nil
}

func (m *memory) RemoveNode(context.Context, *capstanv1.RemoveNodeRequest) (*capstanv1.RemoveNodeResponse, error) {
	return &capstanv1.RemoveNodeResponse{}, nil
}

func (m *memory) CompareReplicas(_ context.Context, r *capstanv1.CompareReplicasRequest) (*capstanv1.CompareReplicasResponse, error) {
	return &capstanv1.CompareReplicasResponse{Id: r.GetId()}, nil
}

func (m *memory) TransferLeadership(context.Context, *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error) {
	return &capstanv1.TransferLeadershipResponse{Leader: "n2"}, nil
}

func (m *memory) Live() error { return nil }

func (m *memory) Ready(_ context.Context, level capstanv1.Consistency) error {
	if level == linearizable {
		return m.ready
	}
	return nil
}

// observed is what an observer was told.
type observed struct{ method, level, code string }

type recorder struct {
	mu  sync.Mutex
	all []observed
}

func (r *recorder) Observe(method, level, code string, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, observed{method, level, code})
}

func (r *recorder) has(want observed) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.all, want)
}

// edgeServer is a whole server on a loopback socket.
type edgeServer struct {
	*memory
	url, addr string
	observer  *recorder
	budgets   *Budgets
	http1     *http.Client
	h2c       *http.Client
}

func startEdge(t testing.TB, change ...func(*Config)) *edgeServer {
	t.Helper()
	s := &edgeServer{memory: &memory{}, observer: &recorder{}}
	config := Config{
		KV: s, Cluster: s, Health: s, MaxValueSize: 1000, Version: "v0", Observer: s.observer,
		APIAddress: func(id partition.NodeID) string {
			name, _, _ := strings.Cut(string(id), "-")
			return "http://" + name
		},
	}
	for _, f := range change {
		f(&config)
	}
	s.budgets = config.Budgets
	server := NewServer(NewHandler(config))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s.addr, s.url = l.Addr().String(), "http://"+l.Addr().String()
	client := func(h2 bool) *http.Client {
		p := new(http.Protocols)
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		return &http.Client{Transport: &http.Transport{Protocols: p, DisableCompression: true}}
	}
	s.http1, s.h2c = client(false), client(true)
	t.Cleanup(func() {
		s.http1.CloseIdleConnections()
		s.h2c.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}
