package client_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
)

// fakeCluster is a few HTTP servers in front of one map. Each node answers
// every call; fail says otherwise.
type fakeCluster struct {
	nodes []*fakeNode

	mu      sync.Mutex
	data    map[string][]byte
	index   uint64
	leaders []int // node number by partition

	sessions *fakeSessions // nil: it gives no tokens

	fates     []capstanv1.Fate // what AwaitWrite answers, one after the other
	hasty     bool             // pending is answered without waiting
	conflicts []*capstanv1.Conflict
}

type fakeNode struct {
	capstanv1connect.UnimplementedKVServiceHandler
	capstanv1connect.UnimplementedClusterServiceHandler
	capstanv1connect.UnimplementedChaosServiceHandler

	cluster *fakeCluster
	number  int
	name    string
	server  *httptest.Server

	mu    sync.Mutex
	calls map[string]int
	cut   []string
	waits []time.Duration       // what AwaitWrite was asked to wait
	fail  func(op string) error // nil: none
}

// servedBy is who answers a put: the leader, to whom every node hands it on.
func (n *fakeNode) servedBy() string { return n.cluster.nodes[n.cluster.leaders[0]].name }

func newFakeCluster(nodes, partitions int) *fakeCluster {
	return newFakeClusterOn(newH2CServer, nodes, partitions)
}

func newFakeClusterOn(serve func(http.Handler) *httptest.Server, nodes, partitions int) *fakeCluster {
	c := &fakeCluster{data: make(map[string][]byte), leaders: make([]int, partitions)}
	for i := range partitions {
		c.leaders[i] = i % nodes
	}
	for i := range nodes {
		n := &fakeNode{cluster: c, number: i, name: fmt.Sprintf("n%d", i+1), calls: make(map[string]int)}
		mux := http.NewServeMux()
		mux.Handle(capstanv1connect.NewKVServiceHandler(n))
		mux.Handle(capstanv1connect.NewClusterServiceHandler(n))
		mux.Handle(capstanv1connect.NewChaosServiceHandler(n))
		n.server = serve(mux)
		c.nodes = append(c.nodes, n)
	}
	return c
}

func newH2CServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	return s
}

func (c *fakeCluster) close() {
	for _, n := range c.nodes {
		n.server.CloseClientConnections()
		n.server.Close()
	}
}

func (c *fakeCluster) endpoints() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.server.URL)
	}
	return urls
}

func (c *fakeCluster) setLeader(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.leaders {
		c.leaders[i] = node
	}
}

func (n *fakeNode) failWith(f func(op string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = f
}

func (n *fakeNode) count(op string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[op]
}

func (n *fakeNode) enter(op string) error {
	n.mu.Lock()
	n.calls[op]++
	fail := n.fail
	n.mu.Unlock()
	if fail != nil {
		return fail(op)
	}
	return nil
}

// failure is an error as the cluster makes it.
func failure(code connect.Code, message string, info *capstanv1.ErrorInfo) error {
	e := connect.NewError(code, fmt.Errorf("%s", message))
	if info != nil {
		d, err := connect.NewErrorDetail(info)
		if err != nil {
			panic(err)
		}
		e.AddDetail(d)
	}
	return e
}

func notApplied(reason capstanv1.Reason) *capstanv1.ErrorInfo {
	return &capstanv1.ErrorInfo{Reason: reason, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED}
}

func (n *fakeNode) version() *capstanv1.Version {
	n.cluster.index++
	return &capstanv1.Version{Index: n.cluster.index, Timestamp: 7, Node: n.name + "-aaaa"}
}

func (n *fakeNode) Get(_ context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := n.enter("get"); err != nil {
		return nil, err
	}
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	v, ok := n.cluster.data[string(r.GetKey())]
	token, err := n.cluster.sessions.step(r.GetSession())
	if err != nil {
		return nil, err
	}
	m := &capstanv1.GetResponse{Found: ok, Value: v, Session: token, Freshness: &capstanv1.Freshness{ServedBy: n.name, Staleness: durationpb.New(0)}}
	if r.GetConsistency() == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		m.Freshness = &capstanv1.Freshness{ServedBy: n.name, Tentative: true}
	}
	return m, nil
}

func (n *fakeNode) Put(_ context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := n.enter("put"); err != nil {
		return nil, err
	}
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	if _, there := n.cluster.data[string(r.GetKey())]; there && r.GetCondition().GetAbsent() {
		return nil, failure(connect.CodeFailedPrecondition, "the key is present", &capstanv1.ErrorInfo{
			Reason:  capstanv1.Reason_REASON_CONDITION_FAILED,
			Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED,
			Current: &capstanv1.Version{Index: 1, Timestamp: 7, Node: "n1-aaaa"},
		})
	}
	token, err := n.cluster.sessions.step(r.GetSession())
	if err != nil {
		return nil, err
	}
	n.cluster.data[string(r.GetKey())] = r.GetValue()
	m := &capstanv1.PutResponse{Version: n.version(), ServedBy: n.servedBy(), Session: token}
	if r.GetConsistency() == capstanv1.Consistency_CONSISTENCY_EVENTUAL {
		m.Version.Index, m.ServedBy, m.Base = 0, n.name, 3
		m.Receipt = "wr_" + string(r.GetKey())
	}
	return m, nil
}

func (n *fakeNode) Delete(_ context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := n.enter("delete"); err != nil {
		return nil, err
	}
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	token, err := n.cluster.sessions.step(r.GetSession())
	if err != nil {
		return nil, err
	}
	_, existed := n.cluster.data[string(r.GetKey())]
	delete(n.cluster.data, string(r.GetKey()))
	return &capstanv1.DeleteResponse{Version: n.version(), ServedBy: n.name, Existed: &existed, Session: token}, nil
}

func (n *fakeNode) Batch(ctx context.Context, r *capstanv1.BatchRequest) (*capstanv1.BatchResponse, error) {
	if err := n.enter("batch"); err != nil {
		return nil, err
	}
	n.cluster.mu.Lock()
	token, err := n.cluster.sessions.batch(r.GetSession(), len(r.GetOps()))
	n.cluster.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m := &capstanv1.BatchResponse{Session: token}
	for _, op := range r.GetOps() {
		result := &capstanv1.Result{}
		switch op := op.GetOp().(type) {
		case *capstanv1.Operation_Get:
			g, _ := n.Get(ctx, op.Get)
			result.Result = &capstanv1.Result_Get{Get: g}
		case *capstanv1.Operation_Put:
			if p, err := n.Put(ctx, op.Put); err == nil {
				result.Result = &capstanv1.Result_Put{Put: p}
			} else {
				result.Result = &capstanv1.Result_Error{Error: &capstanv1.Error{
					Code: connect.CodeOf(err).String(), Message: "the key is present",
					Info: notApplied(capstanv1.Reason_REASON_CONDITION_FAILED),
				}}
			}
		case *capstanv1.Operation_Delete:
			d, _ := n.Delete(ctx, op.Delete)
			result.Result = &capstanv1.Result_Delete{Delete: d}
		}
		m.Results = append(m.Results, result)
	}
	return m, nil
}

func (n *fakeNode) Scan(_ context.Context, r *capstanv1.ScanRequest, stream *connect.ServerStream[capstanv1.ScanResponse]) error {
	if err := n.enter("scan"); err != nil {
		return err
	}
	n.cluster.mu.Lock()
	token, err := n.cluster.sessions.step(r.GetSession())
	if err != nil {
		n.cluster.mu.Unlock()
		return err
	}
	var entries []*capstanv1.Entry
	for k, v := range n.cluster.data {
		if bytes.HasPrefix([]byte(k), r.GetPrefix()) {
			entries = append(entries, &capstanv1.Entry{Key: []byte(k), Value: v})
		}
	}
	n.cluster.mu.Unlock()
	slices.SortFunc(entries, func(a, b *capstanv1.Entry) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	for _, e := range entries {
		if err := stream.Send(&capstanv1.ScanResponse{Entries: []*capstanv1.Entry{e}}); err != nil {
			return err
		}
		if err := n.enter("scan entry"); err != nil {
			if strings.Contains(err.Error(), "no end") {
				return nil
			}
			return err
		}
	}
	return stream.Send(&capstanv1.ScanResponse{End: &capstanv1.ScanEnd{Session: token, Freshness: &capstanv1.Freshness{ServedBy: n.name}}})
}

func (n *fakeNode) AwaitWrite(ctx context.Context, r *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	if err := n.enter("await"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.waits = append(n.waits, r.GetWait().AsDuration())
	n.mu.Unlock()
	n.cluster.mu.Lock()
	token, err := n.cluster.sessions.step("")
	m := &capstanv1.AwaitWriteResponse{Fate: capstanv1.Fate_FATE_PENDING, ServedBy: n.name, Session: token}
	if len(n.cluster.fates) > 0 {
		m.Fate, n.cluster.fates = n.cluster.fates[0], n.cluster.fates[1:]
	}
	if m.Fate == capstanv1.Fate_FATE_COMMITTED {
		m.Version = n.version()
	}
	n.cluster.mu.Unlock()
	if m.Fate == capstanv1.Fate_FATE_PENDING && !n.cluster.hasty {
		wait := time.NewTimer(r.GetWait().AsDuration())
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return m, err
}

func (n *fakeNode) ListConflicts(_ context.Context, r *capstanv1.ListConflictsRequest, stream *connect.ServerStream[capstanv1.ListConflictsResponse]) error {
	if err := n.enter("conflicts"); err != nil {
		return err
	}
	for i, one := range n.cluster.conflicts {
		if !bytes.HasPrefix(one.GetKey(), r.GetPrefix()) || r.GetLimit() > 0 && uint32(i) >= r.GetLimit() {
			continue
		}
		if err := stream.Send(&capstanv1.ListConflictsResponse{Conflicts: []*capstanv1.Conflict{one}}); err != nil {
			return err
		}
		if err := n.enter("conflict"); err != nil {
			return err
		}
	}
	return nil
}

func (n *fakeNode) SetCut(_ context.Context, r *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error) {
	if err := n.enter("set cut"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = r.GetNodes()
	return &capstanv1.SetCutResponse{}, nil
}

func (n *fakeNode) GetCut(context.Context, *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error) {
	if err := n.enter("get cut"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return &capstanv1.GetCutResponse{Nodes: n.cut}, nil
}

func (n *fakeNode) GetStatus(context.Context, *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error) {
	if err := n.enter("status"); err != nil {
		return nil, err
	}
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &capstanv1.GetStatusResponse{ClusterId: "c1", ServedBy: n.name, ReplicationFactor: uint32(len(c.nodes))}
	for _, n := range c.nodes {
		m.Nodes = append(m.Nodes, &capstanv1.Node{
			Name: n.name, Id: n.name + "-aaaa", State: capstanv1.NodeState_NODE_STATE_ALIVE,
			ApiAddress: strings.TrimPrefix(n.server.URL, "http://"),
		})
	}
	for i, leader := range c.leaders {
		p := &capstanv1.Partition{Id: uint32(i), Leader: c.nodes[leader].name, Term: 1}
		for _, n := range c.nodes {
			p.Replicas = append(p.Replicas, &capstanv1.Replica{Node: n.name, Voter: true})
		}
		m.Partitions = append(m.Partitions, p)
	}
	return m, nil
}

func (n *fakeNode) LocateKey(context.Context, *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error) {
	if err := n.enter("locate"); err != nil {
		return nil, err
	}
	return &capstanv1.LocateKeyResponse{Leader: n.name, Replicas: []string{n.name}}, nil
}

func (n *fakeNode) TransferLeadership(_ context.Context, r *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error) {
	if err := n.enter("transfer"); err != nil {
		return nil, err
	}
	return &capstanv1.TransferLeadershipResponse{Leader: r.GetTo()}, nil
}

// unusedAddress is one where nobody listens.
func unusedAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
