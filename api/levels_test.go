package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
	"github.com/capstan-kv/capstan/replication"
)

// Every level and option reaches the backend as it was asked for, and the
// answer comes out with all that it says.
func TestEveryLevelReachesTheBackend(t *testing.T) {
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		ctx, kv, k := t.Context(), client(), []byte("k")
		s.token = func(session, op string, key []byte) string { return session + "-" + op + string(key) }
		put, err := kv.Put(ctx, &capstanv1.PutRequest{Key: k, Value: []byte("v"), Consistency: eventual, Acks: 3, Session: "s"})
		if err != nil || put.GetReceipt() != "wr_k" || put.GetBase() != 7 || put.GetVersion().GetIndex() != 0 || put.GetSession() != "s-putk" {
			t.Fatal(put, err)
		}
		got, err := kv.Get(ctx, &capstanv1.GetRequest{Key: k, Consistency: eventual, Replicas: 2, Session: "s.t"})
		if err != nil || !got.GetFreshness().GetTentative() || got.GetFreshness().GetStaleness() != nil || got.GetSession() != "s.t-getk" {
			t.Fatal(got, err)
		}
		got, err = kv.Get(ctx, &capstanv1.GetRequest{Key: k, Consistency: bounded, MaxStaleness: durationpb.New(time.Second)})
		if err != nil || got.GetFreshness().GetStaleness().AsDuration() != time.Second {
			t.Fatal(got, err)
		}
		deleted, err := kv.Delete(ctx, &capstanv1.DeleteRequest{Key: k, Consistency: eventual, Acks: 1})
		if err != nil || deleted.GetReceipt() != "wr_k" || deleted.Existed != nil {
			t.Fatal(deleted, err)
		}
		stream, err := kv.Scan(ctx, &capstanv1.ScanRequest{Prefix: k, Consistency: eventual, Session: "s"})
		if err != nil {
			t.Fatal(err)
		}
		var end *capstanv1.ScanEnd
		for stream.Receive() {
			end = stream.Msg().GetEnd()
		}
		if stream.Err() != nil || end.GetSession() != "s-scank" {
			t.Fatal(end, stream.Err())
		}
		if !s.observer.has(observed{"Put", "eventual", "ok"}) || !s.observer.has(observed{"Get", "bounded", "ok"}) {
			t.Error("the observer was told another level")
		}
	})
}

func TestRequestsArriveWhole(t *testing.T) {
	var seen []proto.Message
	s := startEdge(t, func(c *Config) { c.KV = spy{c.KV, func(m proto.Message) { seen = append(seen, m) }} })
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	want := []proto.Message{
		&capstanv1.GetRequest{Key: []byte("k"), Consistency: eventual, Replicas: 7, Session: "s.t"},
		&capstanv1.GetRequest{Key: []byte("k"), Consistency: bounded, MaxStaleness: durationpb.New(0)},
		&capstanv1.PutRequest{Key: []byte("k"), Consistency: eventual, Acks: 7, Session: strings.Repeat("s", MaxTokenSize)},
	}
	for _, m := range want {
		var err error
		switch m := m.(type) {
		case *capstanv1.GetRequest:
			_, err = kv.Get(t.Context(), m)
		case *capstanv1.PutRequest:
			_, err = kv.Put(t.Context(), m)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		method, path string
		want         proto.Message
	}{
		{"GET", "/kv/k?consistency=eventual&replicas=2", &capstanv1.GetRequest{Key: []byte("k"), Consistency: eventual, Replicas: 2, Session: "s.t"}},
		{"HEAD", "/kv/k?consistency=bounded&max_staleness=5s", &capstanv1.GetRequest{Key: []byte("k"), Consistency: bounded, MaxStaleness: durationpb.New(5 * time.Second), Session: "s.t"}},
		{"PUT", "/kv/k?consistency=eventual&acks=2", &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("v"), Consistency: eventual, Acks: 2, Session: "s.t"}},
	} {
		if res, body := s.do(t, c.method, c.path, "v", "Capstan-Session", "s.t"); res.StatusCode > 202 {
			t.Error(res.Status, body)
		}
		want = append(want, c.want)
	}
	for i, m := range want {
		if i >= len(seen) || !proto.Equal(seen[i], m) {
			t.Errorf("%d: %v arrived as another", i, m)
		}
	}
}

// spy shows the requests for single keys.
type spy struct {
	KV
	see func(proto.Message)
}

func (s spy) Get(ctx context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	s.see(r)
	return s.KV.Get(ctx, r)
}

func (s spy) Put(ctx context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	s.see(r)
	return s.KV.Put(ctx, r)
}

func TestPlainEventual(t *testing.T) {
	s := startEdge(t)
	s.token = func(session, op string, key []byte) string { return session + "-" + op + string(key) }
	put, body := s.do(t, "PUT", "/kv/a?consistency=eventual&acks=2", "pear", "Capstan-Session", "s")
	h := put.Header
	if put.StatusCode != 202 || body != "" || h.Get("Capstan-Receipt") != "wr_a" || h.Get("Capstan-Session") != "s-puta" || h.Get("Capstan-Tentative") != "true" ||
		h.Get("Capstan-Version") != "0-65536-n1-aaaa" || h.Get("Capstan-Served-By") != "n1" || h.Get("ETag") != "" || h.Get("Capstan-Outcome") != "" {
		t.Error(put.Status, body, h)
	}
	get, body := s.do(t, "GET", "/kv/a?consistency=eventual", "", "Capstan-Session", h.Get("Capstan-Session"))
	h = get.Header
	if get.StatusCode != 200 || body != "pear" || h.Get("Capstan-Tentative") != "true" || h["Capstan-Staleness"] != nil || h.Get("ETag") != "" || h.Get("Capstan-Session") != "s-puta-geta" {
		t.Error(get.Status, body, h)
	}
	get, _ = s.do(t, "GET", "/kv/a?consistency=bounded&max_staleness=1500ms", "")
	if h = get.Header; get.StatusCode != 200 || h.Get("Capstan-Staleness") != "1.5s" || h.Get("Capstan-Tentative") != "false" || h.Get("ETag") == "" {
		t.Error(get.Status, h)
	}
	deleted, _ := s.do(t, "DELETE", "/kv/a?consistency=eventual", "")
	if h = deleted.Header; deleted.StatusCode != 202 || h.Get("Capstan-Receipt") != "wr_a" || h.Get("Capstan-Tentative") != "true" {
		t.Error(deleted.Status, h)
	}
	// What is not there has a session too.
	get, _ = s.do(t, "GET", "/kv/a?consistency=eventual", "")
	if h = get.Header; get.StatusCode != 404 || h.Get("Capstan-Session") != "-geta" {
		t.Error(get.Status, h)
	}
	if !s.observer.has(observed{"http.Put", "eventual", "ok"}) || !s.observer.has(observed{"http.Get", "bounded", "ok"}) {
		t.Error("the observer was told another level")
	}
}

// An eventual write that was cut short in the middle says so, with what it takes
// to ask for its fate and to go on; one that was refused says that.
func TestTooFewAcks(t *testing.T) {
	lost := &replication.Error{
		Reason: replication.TooFewAcks, Outcome: replication.Unknown, Message: "1 of 2 nodes hold the write",
		Reachable: 1, Needed: 2, Receipt: "wr_k", Session: "s2",
	}
	refused := &replication.Error{
		Reason: replication.TooFewAcks, Outcome: replication.NotApplied, Message: "1 node reachable, 2 needed", Reachable: 1, Needed: 2,
	}
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		put := func(failure error) error {
			s.before = func(context.Context, string, []byte) error { return failure }
			_, err := client().Put(t.Context(), &capstanv1.PutRequest{Key: []byte("k"), Consistency: eventual, Acks: 2})
			return err
		}
		err := put(lost)
		wantError(t, err, connect.CodeAborted, capstanv1.Reason_REASON_TOO_FEW_ACKS, unknownOutcome, "1 of 2")
		if info := infoOf(t, err); info.GetReceipt() != "wr_k" || info.GetSession() != "s2" || info.GetReachable() != 1 || info.GetNeeded() != 2 {
			t.Error(info)
		}
		err = put(refused)
		wantError(t, err, connect.CodeUnavailable, capstanv1.Reason_REASON_TOO_FEW_ACKS, notAppliedOutcome, "1 node reachable")
		if info := infoOf(t, err); info.GetReceipt() != "" || info.GetSession() != "" {
			t.Error(info)
		}
	})
	s := startEdge(t)
	s.before = func(context.Context, string, []byte) error { return lost }
	res, body := s.do(t, "PUT", "/kv/k?consistency=eventual&acks=2", "v")
	if h := res.Header; res.StatusCode != 504 || h.Get("Capstan-Receipt") != "wr_k" || h.Get("Capstan-Session") != "s2" || h.Get("Capstan-Outcome") != "unknown" {
		t.Error(res.Status, h, body)
	}
	s.before = func(context.Context, string, []byte) error { return refused }
	res, body = s.do(t, "DELETE", "/kv/k?consistency=eventual&acks=2", "")
	if h := res.Header; res.StatusCode != 503 || h["Capstan-Receipt"] != nil || h["Capstan-Session"] != nil || h.Get("Capstan-Outcome") != "not-applied" {
		t.Error(res.Status, h, body)
	}
}

func TestABatchIsOneStepOfItsSession(t *testing.T) {
	s := startEdge(t)
	var mu sync.Mutex
	came := map[string]string{} // operation and key: the session it came with
	s.token = func(session, op string, key []byte) string {
		mu.Lock()
		defer mu.Unlock()
		came[op+string(key)] = session
		if string(key) == "c" {
			return "" // nothing to remember
		}
		return session + "-" + op + string(key)
	}
	deleteOp := &capstanv1.Operation{Op: &capstanv1.Operation_Delete{Delete: &capstanv1.DeleteRequest{Key: []byte("a")}}}
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	batch := func(session string, ops ...*capstanv1.Operation) *capstanv1.BatchResponse {
		t.Helper()
		s.merged = nil
		res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Session: session, Ops: ops})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := batch("s.t", putOp("a", "1"), putOp("b", "1"), getOp("a"), getOp("c"), deleteOp)
	if res.GetSession() != "s.t-puta-geta-deletea+s.t-putb" {
		t.Errorf("the batch's session is %q", res.GetSession())
	}
	want := map[string]string{"puta": "s.t", "putb": "s.t", "geta": "s.t-puta", "getc": "s.t", "deletea": "s.t-puta-geta"}
	if fmt.Sprint(came) != fmt.Sprint(want) {
		t.Errorf("operations came with %v, want %v", came, want)
	}
	if want := [][]string{{"s.t"}, {"s.t-puta-geta-deletea", "s.t-putb"}}; !slices.EqualFunc(s.merged, want, slices.Equal) {
		t.Errorf("merged: %q", s.merged)
	}
	for i, r := range res.GetResults() {
		if r.GetError() != nil || r.GetGet().GetSession()+r.GetPut().GetSession()+r.GetDelete().GetSession() != "" {
			t.Errorf("result %d: %v", i, r)
		}
	}
	// One token needs no merging; no operation merges what came; none, nothing.
	if res := batch("", getOp("a"), getOp("c")); res.GetSession() != "-geta" || len(s.merged) != 0 {
		t.Errorf("%q after %q", res.GetSession(), s.merged)
	}
	if res := batch("s.t"); res.GetSession() != "s.t" || len(s.merged) != 1 {
		t.Errorf("%q after %q", res.GetSession(), s.merged)
	}
	if res := batch(""); res.GetSession() != "" || len(s.merged) != 0 {
		t.Errorf("%q after %q", res.GetSession(), s.merged)
	}
	if res := batch("s", getOp("c")); res.GetSession() != "s" {
		t.Errorf("an operation with nothing to remember lost the session: %q", res.GetSession())
	}
}

func TestAFailedOperationIsAPartOfItsBatchsSession(t *testing.T) {
	s := startEdge(t)
	var came []string
	s.token = func(session, _ string, _ []byte) string { came = append(came, session); return session + "-ok" }
	s.before = func(_ context.Context, op string, _ []byte) error {
		if op == "put" {
			return &replication.Error{Reason: replication.TooFewAcks, Outcome: replication.Unknown, Receipt: "wr_k", Session: "s-lost", Message: "1 of 2"}
		}
		return nil
	}
	res, err := capstanv1connect.NewKVServiceClient(s.h2c, s.url).Batch(t.Context(), &capstanv1.BatchRequest{
		Session: "s", Ops: []*capstanv1.Operation{putOp("k", "v"), getOp("k")},
	})
	if err != nil || res.GetSession() != "s-lost-ok" || !slices.Equal(came, []string{"s-lost"}) {
		t.Fatal(res, came, err)
	}
	if info := res.GetResults()[0].GetError().GetInfo(); info.GetReceipt() != "wr_k" || info.GetSession() != "" {
		t.Error(info)
	}
}

func TestABatchOfABadSessionDoesNothing(t *testing.T) {
	s := startEdge(t)
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	s.before = func(_ context.Context, op string, _ []byte) error {
		if op == "merge" {
			return &replication.Error{Reason: replication.BadToken, Outcome: replication.NotApplied, Message: "a session of another cluster"}
		}
		return nil
	}
	_, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Session: "s", Ops: []*capstanv1.Operation{putOp("k", "v")}})
	wantError(t, err, connect.CodeInvalidArgument, capstanv1.Reason_REASON_BAD_TOKEN, notAppliedOutcome, "another cluster")
	if _, written := s.value("k"); written {
		t.Error("it was executed")
	}
	s.before = func(context.Context, string, []byte) error { return context.DeadlineExceeded }
	_, err = kv.Batch(t.Context(), &capstanv1.BatchRequest{Session: "s", Ops: []*capstanv1.Operation{putOp("k", "v")}})
	wantError(t, err, connect.CodeDeadlineExceeded, capstanv1.Reason_REASON_DEADLINE, notAppliedOutcome, "deadline")
}

// What is done is told, also if its tokens can not be made one; unless no
// request could carry them.
func TestABatchWhoseSessionsCanNotBeMerged(t *testing.T) {
	s := startEdge(t)
	size := 2000
	s.token = func(_, _ string, key []byte) string { return strings.Repeat(string(key), size) }
	s.before = func(_ context.Context, op string, _ []byte) error {
		if op == "merge" {
			return errors.New("no")
		}
		return nil
	}
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	ops := []*capstanv1.Operation{putOp("a", "1"), putOp("b", "2")}
	res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: ops})
	if err != nil || res.GetSession() != strings.Repeat("a", size)+"."+strings.Repeat("b", size) || res.GetResults()[1].GetPut() == nil {
		t.Error(len(res.GetSession()), err)
	}
	size = 4000
	_, err = kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: ops})
	wantError(t, err, connect.CodeInternal, capstanv1.Reason_REASON_BAD_TOKEN, unknownOutcome, "6 KiB")
}

func TestChaosIsServedOnlyWhereItIsWanted(t *testing.T) {
	off := startEdge(t)
	_, err := capstanv1connect.NewChaosServiceClient(off.h2c, off.url).SetCut(t.Context(), &capstanv1.SetCutRequest{Nodes: []string{"n1"}})
	if connect.CodeOf(err) != connect.CodeUnimplemented || off.cut != nil {
		t.Fatal(err, off.cut)
	}
	var backend memory
	on := startEdge(t, func(c *Config) { c.Chaos = &backend })
	chaos := capstanv1connect.NewChaosServiceClient(on.h2c, on.url)
	if _, err := chaos.SetCut(t.Context(), &capstanv1.SetCutRequest{Nodes: []string{"n2", "n3-k3f9"}}); err != nil {
		t.Fatal(err)
	}
	cut, err := chaos.GetCut(t.Context(), &capstanv1.GetCutRequest{})
	if err != nil || strings.Join(cut.GetNodes(), " ") != "n2 n3-k3f9" {
		t.Fatal(cut, err)
	}
	for _, bad := range [][]string{{""}, {"n2", strings.Repeat("n", 65)}, slices.Repeat([]string{"n2"}, MaxCutNodes+1)} {
		_, err := chaos.SetCut(t.Context(), &capstanv1.SetCutRequest{Nodes: bad})
		wantError(t, err, connect.CodeInvalidArgument, badOptionReason, notAppliedOutcome, "node")
	}
	if len(backend.cut) != 2 {
		t.Error("a refused cut reached the backend:", backend.cut)
	}
	if _, err := chaos.SetCut(t.Context(), &capstanv1.SetCutRequest{}); err != nil || len(backend.cut) != 0 {
		t.Error("not healed:", backend.cut, err)
	}
	if !backend.limited {
		t.Error("a cut without a deadline")
	}
	if !on.observer.has(observed{"SetCut", "none", "ok"}) {
		t.Error("the observer was not told")
	}
	for s, served := range map[*edgeServer]bool{on: true, off: false} {
		stream := grpcreflect.NewClient(s.h2c, s.url, connect.WithGRPC()).NewStream(t.Context())
		names, err := stream.ListServices()
		if err != nil || slices.Contains(names, "capstan.v1.ChaosService") != served {
			t.Error(names, err)
		}
		if _, err := stream.Close(); err != nil {
			t.Error(err)
		}
		body := strings.NewReader(`{"service":"capstan.v1.ChaosService"}`)
		res, err := s.http1.Post(s.url+"/grpc.health.v1.Health/Check", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if (res.StatusCode == http.StatusOK) != served {
			t.Error("health of the chaos service:", res.Status)
		}
	}
}
