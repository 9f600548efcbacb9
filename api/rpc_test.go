package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
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
	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication"
)

// dialects are the ways to speak to the RPC door.
func dialects(s *edgeServer) map[string]func(...connect.ClientOption) capstanv1connect.KVServiceClient {
	with := func(c *http.Client, more ...connect.ClientOption) func(...connect.ClientOption) capstanv1connect.KVServiceClient {
		return func(opts ...connect.ClientOption) capstanv1connect.KVServiceClient {
			return capstanv1connect.NewKVServiceClient(c, s.url, append(more, opts...)...)
		}
	}
	return map[string]func(...connect.ClientOption) capstanv1connect.KVServiceClient{
		"connect http/1.1":  with(s.http1),
		"connect h2c":       with(s.h2c),
		"connect json":      with(s.http1, connect.WithProtoJSON()),
		"connect get":       with(s.http1, connect.WithHTTPGet()),
		"connect get json":  with(s.http1, connect.WithHTTPGet(), connect.WithProtoJSON()),
		"grpc":              with(s.h2c, connect.WithGRPC()),
		"grpc json":         with(s.h2c, connect.WithGRPC(), connect.WithProtoJSON()),
		"grpc-web http/1.1": with(s.http1, connect.WithGRPCWeb()),
		"grpc-web h2c":      with(s.h2c, connect.WithGRPCWeb()),
	}
}

func eachDialect(t *testing.T, check func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient)) {
	s := startEdge(t)
	for name, client := range dialects(s) {
		t.Run(name, func(t *testing.T) { check(t, s, client) })
	}
}

func infoOf(t *testing.T, err error) *capstanv1.ErrorInfo {
	t.Helper()
	var ce *connect.Error
	if !errors.As(err, &ce) {
		t.Fatalf("%v is no connect error", err)
	}
	if len(ce.Details()) != 1 {
		t.Fatalf("%v has %d details, want 1", err, len(ce.Details()))
	}
	v, err := ce.Details()[0].Value()
	if err != nil {
		t.Fatal(err)
	}
	return v.(*capstanv1.ErrorInfo)
}

func wantError(t *testing.T, err error, code connect.Code, reason capstanv1.Reason, outcome capstanv1.Outcome, words string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Fatalf("error %v, want code %v", err, code)
	}
	info := infoOf(t, err)
	if info.Reason != reason || info.Outcome != outcome {
		t.Fatalf("%v says %v, %v; want %v, %v", err, info.Reason, info.Outcome, reason, outcome)
	}
	if !strings.Contains(err.Error(), words) {
		t.Fatalf("message %q does not say %q", err, words)
	}
}

const (
	notAppliedOutcome = capstanv1.Outcome_OUTCOME_NOT_APPLIED
	unknownOutcome    = capstanv1.Outcome_OUTCOME_UNKNOWN
	badOptionReason   = capstanv1.Reason_REASON_BAD_OPTION
	tooLargeReason    = capstanv1.Reason_REASON_VALUE_TOO_LARGE
)

func TestEveryDialectReadsAndWrites(t *testing.T) {
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		ctx, kv := t.Context(), client()
		key := []byte("k\x00/%\xff" + t.Name())
		put, err := kv.Put(ctx, &capstanv1.PutRequest{Key: key, Value: []byte("v")})
		if err != nil || put.Version.GetIndex() == 0 {
			t.Fatal(put, err)
		}
		got, err := kv.Get(ctx, &capstanv1.GetRequest{Key: key})
		if err != nil || string(got.Value) != "v" || !proto.Equal(got.Version, put.Version) {
			t.Fatal(got, err)
		}
		stream, err := kv.Scan(ctx, &capstanv1.ScanRequest{Prefix: key})
		if err != nil {
			t.Fatal(err)
		}
		var keys int
		var end bool
		for stream.Receive() {
			keys += len(stream.Msg().Entries)
			end = stream.Msg().End != nil
		}
		if stream.Err() != nil || keys != 1 || !end {
			t.Fatal(keys, end, stream.Err())
		}
		if deleted, err := kv.Delete(ctx, &capstanv1.DeleteRequest{Key: key}); err != nil || !deleted.GetExisted() {
			t.Fatal(deleted, err)
		}
		if deleted, err := kv.Delete(ctx, &capstanv1.DeleteRequest{Key: key}); err != nil || deleted.GetExisted() {
			t.Fatal(deleted, err)
		}
		if got, err := kv.Get(ctx, &capstanv1.GetRequest{Key: key}); err != nil || got.Found {
			t.Fatal(got, err)
		}
		if !s.observer.has(observed{"Put", "linearizable", "ok"}) {
			t.Error("the observer was not told")
		}
	})
}

func TestEveryDialectTellsEveryErrorWithInfo(t *testing.T) {
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		ctx, kv := t.Context(), client()
		key := []byte("k")
		get := func(r *capstanv1.GetRequest) error { _, err := kv.Get(ctx, r); return err }
		put := func(r *capstanv1.PutRequest) error { _, err := kv.Put(ctx, r); return err }
		scan := func(r *capstanv1.ScanRequest) error {
			stream, err := kv.Scan(ctx, r)
			if err != nil {
				return err
			}
			for stream.Receive() {
			}
			return stream.Err()
		}
		before := s.seen()
		wantError(t, get(&capstanv1.GetRequest{}), connect.CodeInvalidArgument, capstanv1.Reason_REASON_BAD_KEY, notAppliedOutcome, "key is empty")
		wantError(t, scan(&capstanv1.ScanRequest{Start: []byte("b"), End: []byte("a")}), connect.CodeInvalidArgument, badOptionReason, notAppliedOutcome, "after its end")
		wantError(t, put(&capstanv1.PutRequest{Key: key, Value: make([]byte, 1001)}), connect.CodeInvalidArgument, tooLargeReason, notAppliedOutcome, "1001 bytes")
		wantError(t, get(&capstanv1.GetRequest{Key: key, Consistency: 9}), connect.CodeInvalidArgument, badOptionReason, notAppliedOutcome, "unknown consistency")
		wantError(t, put(&capstanv1.PutRequest{Key: key, Consistency: bounded}), connect.CodeInvalidArgument, badOptionReason, notAppliedOutcome, "level for reads")
		wantError(t, get(&capstanv1.GetRequest{Key: key, Session: strings.Repeat("x", MaxTokenSize+1)}), connect.CodeInvalidArgument, capstanv1.Reason_REASON_BAD_TOKEN, notAppliedOutcome, "6 KiB")
		// Refused by the runtime before a handler runs.
		wantError(t, put(&capstanv1.PutRequest{Key: key, Value: make([]byte, MaxMessageSize)}), connect.CodeResourceExhausted, tooLargeReason, notAppliedOutcome, "4 MiB")
		wantError(t, put(&capstanv1.PutRequest{Key: key, Value: make([]byte, MaxMessageSize+2*wireOverhead)}), connect.CodeResourceExhausted, tooLargeReason, notAppliedOutcome, "4 MiB")
		wantError(t, scan(&capstanv1.ScanRequest{Prefix: make([]byte, MaxMessageSize)}), connect.CodeResourceExhausted, tooLargeReason, notAppliedOutcome, "4 MiB")
		if s.seen() != before {
			t.Error("a refused request reached the backend")
		}
		_, err := kv.AwaitWrite(ctx, &capstanv1.AwaitWriteRequest{Receipt: "wr_1"})
		wantError(t, err, connect.CodeUnimplemented, 0, notAppliedOutcome, "receipts")
	})
}

func TestCompressionBombIsRefusedCheaply(t *testing.T) {
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		kv := client(connect.WithSendGzip())
		const size = 128 << 20
		var before, after runtime.MemStats
		bomb := &capstanv1.PutRequest{Key: []byte("k"), Value: make([]byte, MaxMessageSize+100)}
		_, err := kv.Put(t.Context(), bomb)
		wantError(t, err, connect.CodeResourceExhausted, tooLargeReason, notAppliedOutcome, "4 MiB")
		if !strings.HasPrefix(t.Name(), "TestCompressionBombIsRefusedCheaply/connect_http") {
			return
		}
		// A real one: 128 MiB of zeros in an eighth of a megabyte.
		var packed bytes.Buffer
		z, zeros := gzip.NewWriter(&packed), make([]byte, 1<<20)
		for range size >> 20 {
			if _, err := z.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		r, _ := http.NewRequest(http.MethodPost, s.url+capstanv1connect.KVServicePutProcedure, &packed)
		r.Header.Set("Content-Type", "application/proto")
		r.Header.Set("Content-Encoding", "gzip")
		res, err := s.http1.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusTooManyRequests || !bytes.Contains(body, []byte("4 MiB")) {
			t.Fatal(res.Status, string(body))
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("a bomb of %d bytes made the server allocate %d", size, grown)
		}
		t.Logf("allocated %d KiB in %v", (after.TotalAlloc-before.TotalAlloc)>>10, time.Since(start))
	})
}

func TestGarbageIsRefusedWithInfo(t *testing.T) {
	s := startEdge(t)
	for _, c := range []struct {
		name, method, path, contentType, body string
		header                                map[string]string
		status                                int
		words                                 string
	}{
		{"unknown field", "POST", "KVService/Put", "application/json", `{"key":"aw==","valeu":"dg=="}`, nil, 400, `unknown field \"valeu\"`},
		{"unknown enum name", "POST", "KVService/Get", "application/json", `{"key":"aw==","consistency":"STRONG"}`, nil, 400, "STRONG"},
		{"unknown enum number", "POST", "KVService/Get", "application/json", `{"key":"aw==","consistency":17}`, nil, 400, "unknown consistency 17"},
		{"no json", "POST", "KVService/Get", "application/json", ``, nil, 400, "no json object"},
		{"bad json", "POST", "KVService/Get", "application/json; charset=utf-8", `{"key":`, nil, 400, "unexpected"},
		{"bad proto", "POST", "KVService/Get", "application/proto", "\xff\xff\xff", nil, 400, "parse"},
		{"bad gzip", "POST", "KVService/Get", "application/proto", "no gzip", map[string]string{"Content-Encoding": "gzip"}, 400, "decompressor"},
		{"unknown compression", "POST", "KVService/Put", "application/proto", "", map[string]string{"Content-Encoding": "lzw"}, 501, "lzw"},
		{"bad timeout", "POST", "KVService/Put", "application/proto", "", map[string]string{"Connect-Timeout-Ms": "soon"}, 400, "timeout"},
		{"wrong content type", "POST", "KVService/Put", "text/plain", "", nil, 415, "content type"},
		{"get of a write", "GET", "KVService/Put?encoding=json&message={}", "", "", nil, 405, "method not allowed"},
		{"delete", "DELETE", "KVService/Get", "", "", nil, 405, "method not allowed"},
		{"get without message", "GET", "KVService/Get?encoding=json&connect=v1", "", "", nil, 400, "message"},
		{"get with a bad field", "GET", "KVService/Get?encoding=json&connect=v1&message=" + url.QueryEscape(`{"kye":"a"}`), "", "", nil, 400, "kye"},
		{"get without encoding", "GET", "KVService/Get?message=x", "", "", nil, 415, "content type"},
		{"unknown method", "POST", "KVService/Gte", "application/json", "{}", nil, 501, "KVService/Gte"},
		{"unknown service", "POST", "KVSrevice/Get", "application/json", "{}", nil, 501, "KVSrevice/Get"},
		{"pipeline on http/1.1", "POST", "KVService/Pipeline", "application/connect+json", "", nil, 505, "http/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, s.url+"/capstan.v1."+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.contentType != "" {
				r.Header.Set("Content-Type", c.contentType)
			}
			for k, v := range c.header {
				r.Header.Set(k, v)
			}
			res, err := s.http1.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != c.status || !strings.Contains(string(body), c.words) {
				t.Errorf("%d %s\nwant %d %q", res.StatusCode, body, c.status, c.words)
			}
			if outcome := jsonOutcome(t, body); outcome != notAppliedOutcome {
				t.Errorf("outcome %v in %s", outcome, body)
			}
			if s.seen() != 0 {
				t.Fatal("it reached the backend")
			}
		})
	}
}

// jsonOutcome reads the ErrorInfo out of Connect's JSON.
func jsonOutcome(t *testing.T, body []byte) capstanv1.Outcome {
	t.Helper()
	var answer struct {
		Code    string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Details) != 1 || answer.Details[0].Type != "capstan.v1.ErrorInfo" {
		t.Fatalf("no error with one ErrorInfo: %v %s", err, body)
	}
	raw, err := base64.RawStdEncoding.DecodeString(answer.Details[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	var info capstanv1.ErrorInfo
	if err := proto.Unmarshal(raw, &info); err != nil {
		t.Fatal(err)
	}
	return info.Outcome
}

// A runtime's refusal in each streaming format is a well-formed error there.
func TestRefusalsOfStreams(t *testing.T) {
	eachDialect(t, func(t *testing.T, s *edgeServer, client func(...connect.ClientOption) capstanv1connect.KVServiceClient) {
		kv := client(connect.WithSendCompression("lzw"), connect.WithAcceptCompression("lzw", newDecompressor, newCompressor))
		_, err := kv.Put(t.Context(), &capstanv1.PutRequest{Key: []byte("k")})
		wantError(t, err, connect.CodeUnimplemented, 0, notAppliedOutcome, "lzw")
		stream, err := kv.Scan(t.Context(), &capstanv1.ScanRequest{})
		if err == nil {
			for stream.Receive() {
			}
			err = stream.Err()
		}
		wantError(t, err, connect.CodeUnimplemented, 0, notAppliedOutcome, "lzw")
	})
}

func TestPipelineIsNotOffered(t *testing.T) {
	s := startEdge(t)
	for _, opts := range [][]connect.ClientOption{nil, {connect.WithGRPC()}} {
		kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url, opts...)
		stream, err := kv.Pipeline(t.Context())
		if err == nil {
			_ = stream.Send(&capstanv1.PipelineRequest{})
			_, err = stream.Receive()
			_ = stream.CloseRequest()
			_ = stream.CloseResponse()
		}
		wantError(t, err, connect.CodeUnimplemented, 0, notAppliedOutcome, "pipelines")
	}
}

func TestUnknownBinaryFieldsAreLetThrough(t *testing.T) {
	s := startEdge(t)
	r := &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("v")}
	r.ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 1}) // field 100, from a newer client
	if _, err := capstanv1connect.NewKVServiceClient(s.http1, s.url).Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestJSONSaysFoundAlways(t *testing.T) {
	s := startEdge(t)
	res, err := s.http1.Post(s.url+capstanv1connect.KVServiceGetProcedure, "application/json", strings.NewReader(`{"key":"aw=="}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if want := `{"found":false,"value":"","freshness":{"servedBy":"n1","tentative":false,"staleness":"0s"},"session":""}`; string(body) != want {
		t.Errorf("%s\nwant %s", body, want)
	}
}

func TestDeadlines(t *testing.T) {
	s := startEdge(t)
	left := make(chan time.Duration, 1)
	s.before = func(ctx context.Context, _ string, _ []byte) error {
		deadline, ok := ctx.Deadline()
		if !ok {
			t.Error("no deadline")
		}
		left <- time.Until(deadline)
		return nil
	}
	kv := capstanv1connect.NewKVServiceClient(s.http1, s.url)
	check := func(name string, most time.Duration) {
		t.Helper()
		if d := <-left; d > most || d < most-2*time.Second {
			t.Errorf("%s: %v left, want about %v", name, d, most)
		}
	}
	_, _ = kv.Get(t.Context(), &capstanv1.GetRequest{Key: []byte("k")})
	check("get", DefaultTimeout)
	_, _ = kv.AwaitWrite(t.Context(), &capstanv1.AwaitWriteRequest{Receipt: "r", Wait: durationpb.New(20 * time.Second)})
	check("await", DefaultTimeout+20*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, _ = kv.Get(ctx, &capstanv1.GetRequest{Key: []byte("k")})
	check("forgotten", MaxTimeout)
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, _ = kv.Get(ctx, &capstanv1.GetRequest{Key: []byte("k")})
	check("own", 30*time.Second)

	s.before = func(context.Context, string, []byte) error { return context.DeadlineExceeded }
	_, err := kv.Put(t.Context(), &capstanv1.PutRequest{Key: []byte("k")})
	wantError(t, err, connect.CodeDeadlineExceeded, capstanv1.Reason_REASON_DEADLINE, unknownOutcome, "deadline")
	_, err = kv.Get(t.Context(), &capstanv1.GetRequest{Key: []byte("k")})
	wantError(t, err, connect.CodeDeadlineExceeded, capstanv1.Reason_REASON_DEADLINE, notAppliedOutcome, "deadline")
}

func TestPanicsAreInternalAndUnknown(t *testing.T) {
	s := startEdge(t)
	s.before = func(context.Context, string, []byte) error { panic("boom") }
	for name, client := range dialects(s) {
		_, err := client().Put(t.Context(), &capstanv1.PutRequest{Key: []byte("k")})
		if err == nil {
			t.Fatal(name)
		}
		wantError(t, err, connect.CodeInternal, 0, unknownOutcome, "internal")
		if strings.Contains(err.Error(), "boom") {
			t.Error("a panic's text leaks")
		}
	}
	res, err := capstanv1connect.NewKVServiceClient(s.http1, s.url).Batch(t.Context(), &capstanv1.BatchRequest{Ops: []*capstanv1.Operation{putOp("a", "1")}})
	if err != nil || res.Results[0].GetError().GetCode() != "internal" || res.Results[0].GetError().GetInfo().GetOutcome() != unknownOutcome {
		t.Error(res, err)
	}
}

func putOp(key, value string) *capstanv1.Operation {
	return &capstanv1.Operation{Op: &capstanv1.Operation_Put{Put: &capstanv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func getOp(key string) *capstanv1.Operation {
	return &capstanv1.Operation{Op: &capstanv1.Operation_Get{Get: &capstanv1.GetRequest{Key: []byte(key)}}}
}

func TestBatchRunsOneKeyInOrderAndFailsEachAlone(t *testing.T) {
	s := startEdge(t)
	var running sync.Map
	s.before = func(_ context.Context, _ string, key []byte) error {
		if _, beside := running.LoadOrStore(string(key), true); beside {
			t.Errorf("two operations on %q at once", key)
		}
		for range 100 {
			runtime.Gosched() // let others overtake, if they can
		}
		running.Delete(string(key))
		return nil
	}
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	var ops []*capstanv1.Operation
	for i := range 200 {
		key := fmt.Sprint("k", i%3)
		ops = append(ops, putOp(key, fmt.Sprint(i)), getOp(key))
	}
	ops = append(ops, putOp("", "x"), &capstanv1.Operation{}, &capstanv1.Operation{Op: &capstanv1.Operation_Get{Get: &capstanv1.GetRequest{Key: []byte("k"), Session: "s"}}})
	res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: ops})
	if err != nil || len(res.Results) != len(ops) {
		t.Fatal(err)
	}
	for i := range 200 {
		if got := string(res.Results[2*i+1].GetGet().GetValue()); got != fmt.Sprint(i) {
			t.Fatalf("read %q after write %d", got, i)
		}
	}
	for i, want := range []capstanv1.Reason{capstanv1.Reason_REASON_BAD_KEY, badOptionReason, badOptionReason} {
		e := res.Results[400+i].GetError()
		if e.GetCode() != "invalid_argument" || e.GetInfo().GetReason() != want || e.GetInfo().GetOutcome() != notAppliedOutcome {
			t.Error(e)
		}
	}
	_, err = kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: make([]*capstanv1.Operation, MaxBatchOps+1)})
	wantError(t, err, connect.CodeInvalidArgument, badOptionReason, notAppliedOutcome, "at most 1024")
	if res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{}); err != nil || len(res.Results) != 0 {
		t.Error(res, err)
	}
}

func TestBatchAnswersFitIntoOneMessage(t *testing.T) {
	s := startEdge(t)
	s.set("big", strings.Repeat("x", 3<<20))
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: []*capstanv1.Operation{getOp("big"), getOp("big")}})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Results[0].GetGet().GetValue()) != 3<<20 || res.Results[1].GetError().GetInfo().GetReason() != tooLargeReason {
		t.Error(res.Results[1].GetError())
	}
	s.set("big", strings.Repeat("x", 2<<20))
	res, err = capstanv1connect.NewKVServiceClient(s.h2c, s.url, connect.WithProtoJSON()).Batch(t.Context(), &capstanv1.BatchRequest{Ops: []*capstanv1.Operation{getOp("big"), getOp("big")}})
	if err != nil || res.Results[0].GetGet() == nil && res.Results[1].GetGet() == nil || res.Results[0].GetError() == nil && res.Results[1].GetError() == nil {
		t.Fatal(err)
	}
	s.set("big", strings.Repeat("x", 4<<20))
	_, err = kv.Get(t.Context(), &capstanv1.GetRequest{Key: []byte("big")})
	wantError(t, err, connect.CodeInvalidArgument, tooLargeReason, notAppliedOutcome, "4 MiB")
	s.set("big", strings.Repeat("x", 3<<20))
	_, err = capstanv1connect.NewKVServiceClient(s.h2c, s.url, connect.WithProtoJSON()).Get(t.Context(), &capstanv1.GetRequest{Key: []byte("big")})
	wantError(t, err, connect.CodeInvalidArgument, tooLargeReason, notAppliedOutcome, "binary encoding")
}

func TestBatchStopsStartingWhenItsTimeIsUp(t *testing.T) {
	s := startEdge(t)
	s.before = func(ctx context.Context, _ string, _ []byte) error { <-ctx.Done(); return ctx.Err() }
	o := &operations{config: Config{KV: s, MaxValueSize: 10}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	res, err := o.batch(ctx, &capstanv1.BatchRequest{Ops: []*capstanv1.Operation{putOp("a", "1"), putOp("a", "2")}})
	if err != nil {
		t.Fatal(err)
	}
	if o := res.Results[0].GetError().GetInfo().GetOutcome(); o != unknownOutcome {
		t.Error("begun:", o)
	}
	if o := res.Results[1].GetError().GetInfo().GetOutcome(); o != notAppliedOutcome {
		t.Error("not begun:", o)
	}
}

func TestErrorTable(t *testing.T) {
	values := capstanv1.Reason(0).Descriptor().Values()
	for i := range values.Len() {
		n := replication.Reason(values.Get(i).Number())
		if n == 0 {
			continue
		}
		m, ok := reasons[n]
		if !ok {
			t.Errorf("%s has no row", values.Get(i).Name())
			continue
		}
		for _, o := range []replication.Outcome{replication.NotApplied, replication.Unknown, 0} {
			f := failureOf(&replication.Error{Reason: n, Outcome: o, Message: "m", Try: "t"}, true, nil)
			if f.info.Reason != capstanv1.Reason(n) || f.message != "m; try: t" {
				t.Errorf("%v: %+v", n, f)
			}
			definite := f.info.Outcome == notAppliedOutcome
			if definite != (o == replication.NotApplied) {
				t.Errorf("reason %d outcome %d is told as %v", n, o, f.info.Outcome)
			}
			if f.code == connect.CodeUnavailable && !definite || f.status == http.StatusServiceUnavailable && !definite || f.code == connect.CodeAborted && definite {
				t.Errorf("reason %d outcome %d: code %v, status %d", n, o, f.code, f.status)
			}
		}
		if m.status < 400 || m.code == 0 {
			t.Error(n, m)
		}
	}
	f := failureOf(fmt.Errorf("wrapped: %w", &replication.Error{
		Reason: replication.NoQuorum, Outcome: replication.NotApplied, Leader: "n2-k3f9", Reachable: 1, Needed: 2,
		Message: "no quorum for partition 9: n3 reaches 1 of 3 replicas, 2 needed", Try: "--via n1",
	}), true, func(id partition.NodeID) string { return "http://" + string(id) })
	if f.code != connect.CodeUnavailable || f.info.Leader != "http://n2-k3f9" || f.info.Reachable != 1 || f.info.Needed != 2 {
		t.Errorf("%+v", f)
	}
	if f := failureOf(errors.New("what"), true, nil); f.code != connect.CodeInternal || f.info.Outcome != unknownOutcome {
		t.Errorf("%+v", f)
	}
	if f := failureOf(&replication.Error{Reason: 99}, false, nil); f.code != connect.CodeInternal {
		t.Errorf("%+v", f)
	}
}

func TestReflectionListsServices(t *testing.T) {
	s := startEdge(t)
	stream := grpcreflect.NewClient(s.h2c, s.url, connect.WithGRPC()).NewStream(t.Context())
	names, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, "capstan.v1.KVService") {
		t.Error(names)
	}
	if _, err := stream.FileContainingSymbol("capstan.v1.KVService"); err != nil {
		t.Error(err)
	}
	if _, err := stream.Close(); err != nil {
		t.Error(err)
	}
}
