package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
	"github.com/capstan-kv/capstan/node"
)

// childVariable makes the test binary behave as capstan, with a server that
// only listens: that is what demo starts. With the value childWhole it is the
// whole program.
const (
	childVariable = "CAPSTAN_TEST_CHILD"
	childWhole    = "whole"
)

// beforeWhole prepares what the whole program is to find.
var beforeWhole = func() {}

// afterTests undo what tests have made for each other.
var afterTests []func()

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
	case childWhole:
		beforeWhole()
		main()
	default:
		os.Exit(run(untilSignal(), openListener, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Unsetenv(endpointsVariable)
	atOnce()
	status := m.Run()
	for _, after := range afterTests {
		after()
	}
	os.Exit(status)
}

// clustersAtOnce is how many clusters tests run side by side, where nobody says
// otherwise: they wait for elections and timeouts more than they work.
const clustersAtOnce = 4

func atOnce() {
	flag.Parse()
	said := raceDetector
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if parallel := flag.Lookup("test.parallel").Value; !said && runtime.GOMAXPROCS(0) < clustersAtOnce {
		_ = parallel.Set(strconv.Itoa(clustersAtOnce))
	}
}

// listener is a server that answers only whether it is ready.
type listener struct {
	http *http.Server
	c    node.Config
	done chan struct{}
}

func openListener(_ context.Context, c node.Config) (server, error) {
	if os.Getenv(childVariable) == "fail "+c.Name {
		fmt.Fprintln(os.Stderr, "panic: the disk is on fire")
		return nil, errors.New("it broke")
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, "data"), []byte("x"), 0o600); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, err
	}
	s := &listener{c: c, done: make(chan struct{}), http: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/readyz?level=linearizable" {
			http.NotFound(w, r)
		}
	})}}
	go s.http.Serve(l)
	return s, nil
}

func (s *listener) Addr() (api, peer, gossip string) {
	return s.c.Listen, s.c.ListenPeer, s.c.ListenGossip
}
func (s *listener) Done() <-chan struct{} { return s.done }
func (s *listener) Err() error            { return nil }
func (s *listener) Close() error          { return s.http.Close() }

// fake is a node that answers what the test says.
type fake struct {
	capstanv1connect.UnimplementedKVServiceHandler
	capstanv1connect.UnimplementedClusterServiceHandler
	capstanv1connect.UnimplementedChaosServiceHandler

	url  string
	stop func()

	compared []capstanv1.ComparisonResult // by partition

	mu         sync.Mutex
	got        []proto.Message // the requests
	fail       error
	failLocate error
	get        *capstanv1.GetResponse
	put        *capstanv1.PutResponse
	delete     *capstanv1.DeleteResponse
	scan       []*capstanv1.ScanResponse
	locate     *capstanv1.LocateKeyResponse
	cpu        float64

	await     *capstanv1.AwaitWriteResponse
	conflicts []*capstanv1.ListConflictsResponse

	status     func() *capstanv1.GetStatusResponse // nil: that of a small cluster
	cut        []string
	cutAge     float64
	failCut    error
	failStatus error
}

var fakeVersion = &capstanv1.Version{Index: 12, Timestamp: 117309440000000003, Node: "n1-k3f9"}

func newFake(t *testing.T) *fake {
	t.Helper()
	existed := true
	f := &fake{
		get: &capstanv1.GetResponse{
			Found: true, Value: []byte("apple"), Version: fakeVersion, Session: "s2",
			Freshness: &capstanv1.Freshness{ServedBy: "n1", Staleness: durationpb.New(0)},
		},
		put:    &capstanv1.PutResponse{Version: fakeVersion, ServedBy: "n1", Session: "s2"},
		delete: &capstanv1.DeleteResponse{Version: fakeVersion, ServedBy: "n1", Existed: &existed},
		scan: []*capstanv1.ScanResponse{
			{Entries: []*capstanv1.Entry{{Key: []byte("a"), Value: []byte("1"), Version: fakeVersion}, {Key: []byte("b\x00"), Value: []byte("two\n")}}},
			{End: &capstanv1.ScanEnd{More: true, Freshness: &capstanv1.Freshness{ServedBy: "n1"}}},
		},
		locate: &capstanv1.LocateKeyResponse{Hash: 0x9c1f, Partition: 9, Replicas: []string{"n1", "n2", "n3"}, Leader: "n1"},
	}
	mux := http.NewServeMux()
	mux.Handle(capstanv1connect.NewKVServiceHandler(f))
	mux.Handle(capstanv1connect.NewClusterServiceHandler(f))
	mux.Handle(capstanv1connect.NewChaosServiceHandler(f))
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.cpu += 1.5
		fmt.Fprintf(w, "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total %g\n", f.cpu)
		// As if half of what was accepted took up to 20 ms.
		fmt.Fprintf(w, "capstan_promotion_lag_seconds_bucket{le=\"0.02\"} %g\ncapstan_promotion_lag_seconds_bucket{le=\"+Inf\"} %g\n", f.cpu*10, f.cpu*20)
		if f.cutAge > 0 {
			fmt.Fprintf(w, "capstan_chaos_cut_seconds %g\n", f.cutAge)
		}
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	f.url, f.stop = s.URL, s.Close
	return f
}

func (f *fake) enter(m proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, proto.Clone(m))
	return f.fail
}

// sent is the last request of the type of like, nil for none.
func (f *fake) sent(like proto.Message) proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range slices.Backward(f.got) {
		if r.ProtoReflect().Descriptor() == like.ProtoReflect().Descriptor() {
			return r
		}
	}
	return nil
}

func (f *fake) Get(_ context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	return f.get, f.enter(r)
}

func (f *fake) Put(_ context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	return f.put, f.enter(r)
}

func (f *fake) Delete(_ context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	return f.delete, f.enter(r)
}

func (f *fake) Batch(_ context.Context, r *capstanv1.BatchRequest) (*capstanv1.BatchResponse, error) {
	m := &capstanv1.BatchResponse{}
	for _, o := range r.GetOps() {
		result := &capstanv1.Result{Result: &capstanv1.Result_Put{Put: f.put}}
		if o.GetDelete() != nil {
			result.Result = &capstanv1.Result_Delete{Delete: f.delete}
		}
		m.Results = append(m.Results, result)
	}
	return m, f.enter(r)
}

func (f *fake) Scan(_ context.Context, r *capstanv1.ScanRequest, stream *connect.ServerStream[capstanv1.ScanResponse]) error {
	if err := f.enter(r); err != nil {
		return err
	}
	for _, m := range f.scan {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) GetStatus(context.Context, *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error) {
	if f.status != nil {
		return f.status(), cmp.Or(f.enter(&capstanv1.GetStatusRequest{}), f.failStatus)
	}
	address := strings.TrimPrefix(f.url, "http://")
	m := &capstanv1.GetStatusResponse{ClusterId: "c-7f3a", ServedBy: "n1", RingEpoch: 4, ReplicationFactor: 3}
	m.Nodes = append(m.Nodes,
		&capstanv1.Node{Name: "n1", Id: "n1-k3f9", State: capstanv1.NodeState_NODE_STATE_ALIVE, ApiAddress: address, PeerAddress: "127.0.0.1:7821", GossipAddress: "127.0.0.1:7822", SoftwareVersion: "v0.1.0"},
		&capstanv1.Node{Name: "n2", Id: "n2-p7wd", State: capstanv1.NodeState_NODE_STATE_DEAD, Zone: "b"})
	m.Partitions = append(m.Partitions,
		&capstanv1.Partition{Id: 0, Leader: "n1-k3f9", Term: 3, CommitIndex: 12, Replicas: []*capstanv1.Replica{{Node: "n1-k3f9", Voter: true, AppliedIndex: 12}, {Node: "n2-p7wd"}}},
		&capstanv1.Partition{Id: 1, Term: 3, Replicas: []*capstanv1.Replica{{Node: "n1-k3f9", Voter: true, AppliedIndex: 7}, {Node: "n2-p7wd", Voter: true, AppliedIndex: 5}}})
	return m, f.enter(&capstanv1.GetStatusRequest{})
}

func (f *fake) LocateKey(_ context.Context, r *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error) {
	return f.locate, cmp.Or(f.enter(r), f.failLocate)
}

func (f *fake) CompareReplicas(_ context.Context, r *capstanv1.CompareReplicasRequest) (*capstanv1.CompareReplicasResponse, error) {
	found := &capstanv1.Comparison{Partition: r.GetPartition(), Index: 12, Result: f.compared[r.GetPartition()]}
	if len(r.GetId()) == 0 { // the first look is too early
		found.Result = capstanv1.ComparisonResult_COMPARISON_RESULT_PENDING
	}
	found.Replicas = append(found.Replicas,
		&capstanv1.ReplicaDigest{Node: "n1", Digest: []byte("0123456789"), Records: 7, Bytes: 900},
		&capstanv1.ReplicaDigest{Node: "n2", Refusal: "quarantined: its table is damaged"})
	return &capstanv1.CompareReplicasResponse{Id: []byte("an id"), Comparison: found}, f.enter(r)
}

func (f *fake) TransferLeadership(_ context.Context, r *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error) {
	return &capstanv1.TransferLeadershipResponse{Leader: r.GetTo()}, f.enter(r)
}

func (f *fake) DrainNode(_ context.Context, r *capstanv1.DrainNodeRequest) (*capstanv1.DrainNodeResponse, error) {
	return &capstanv1.DrainNodeResponse{}, f.enter(r)
}

func (f *fake) RemoveNode(_ context.Context, r *capstanv1.RemoveNodeRequest) (*capstanv1.RemoveNodeResponse, error) {
	return &capstanv1.RemoveNodeResponse{}, f.enter(r)
}

func (f *fake) AwaitWrite(_ context.Context, r *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	return f.await, f.enter(r)
}

func (f *fake) ListConflicts(_ context.Context, r *capstanv1.ListConflictsRequest, stream *connect.ServerStream[capstanv1.ListConflictsResponse]) error {
	for _, m := range f.conflicts {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return f.enter(r)
}

func (f *fake) GetCut(_ context.Context, r *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error) {
	if err := f.enter(r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &capstanv1.GetCutResponse{Nodes: f.cut}, nil
}

func (f *fake) SetCut(_ context.Context, r *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error) {
	if err := cmp.Or(f.enter(r), f.failCut); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = r.GetNodes()
	return &capstanv1.SetCutResponse{}, nil
}

func failure(code connect.Code, message string, info *capstanv1.ErrorInfo) error {
	e := connect.NewError(code, errors.New(message))
	if info != nil {
		d, err := connect.NewErrorDetail(info)
		if err != nil {
			panic(err)
		}
		e.AddDetail(d)
	}
	return e
}

// shell runs one command and returns what a shell would see.
func shell(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), openListener, args, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), status
}
