package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
	"github.com/capstan-kv/capstan/budget"
	"github.com/capstan-kv/capstan/replication"
)

// tight are budgets of 64 KiB whose claims are ended soon.
func tight(c *Config) {
	limits := budget.Limits{Bytes: 64 << 10, Count: 8, Patience: 2 * time.Second, Pressed: 100 * time.Millisecond}
	c.MaxValueSize = 1 << 20
	c.Budgets = &Budgets{Requests: budget.New("requests", limits), Answers: budget.New("answers", limits), Streams: budget.New("streams", limits)}
}

func dialEdge(t *testing.T, s *edgeServer, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func answerOf(t *testing.T, c net.Conn) (*http.Response, string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	return res, string(body)
}

// eventually waits for a condition.
func eventuallyTrue(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 30 s: " + what)
		}
	}
}

// TestBodiesAreBounded: bodies that do not come take up no more than their budget. A
// body beyond it is refused, definitely; small requests get through; and a stalled body
// makes room for one that comes, or ends by itself.
func TestBodiesAreBounded(t *testing.T) {
	s := startEdge(t, tight)
	stalled := dialEdge(t, s, "PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"+strings.Repeat("v", 28<<10))
	eventuallyTrue(t, "the body is counted", func() bool { return s.budgets.Requests.Use().Bytes >= 48<<10 })
	if res, body := raw(t, s, "PUT /kv/b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nval", false); res.StatusCode != 200 {
		t.Errorf("a small request: %s %s", res.Status, body)
	}
	// Larger than all of the budget: refused whoever makes room.
	tooMuch := dialEdge(t, s, "PUT /kv/c HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"+strings.Repeat("v", 200<<10))
	res, body := answerOf(t, tooMuch)
	if res.StatusCode != 429 || !strings.Contains(body, "resource_exhausted") || res.Header.Get(headerOutcome) != "not-applied" {
		t.Errorf("beyond the budget: %s %s", res.Status, body)
	}
	// The stalled one is ended, and says so.
	if res, body := answerOf(t, stalled); res.StatusCode != 504 || res.Header.Get(headerOutcome) != "not-applied" || !strings.Contains(body, "stood still") {
		t.Errorf("the stalled body: %s %s", res.Status, body)
	}
	if res, body := raw(t, s, "PUT /kv/d HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n"+strings.Repeat("v", 20000), false); res.StatusCode != 200 {
		t.Errorf("when the stalled body is gone: %s %s", res.Status, body)
	}
	eventuallyTrue(t, "all is given back", func() bool { u := s.budgets.Requests.Use(); return u.Bytes == 0 && u.Count == 0 })
	for _, key := range []string{"a", "c"} {
		if _, ok := s.value(key); ok {
			t.Errorf("%s was written", key)
		}
	}
}

// TestStalledBodiesOfRPCs: the same for RPCs, and for reflection, which has no
// deadline of its own.
func TestStalledBodiesOfRPCs(t *testing.T) {
	s := startEdge(t, tight)
	for path, contentType := range map[string]string{
		"/capstan.v1.KVService/Put": "application/proto", "/capstan.v1.KVService/Scan": "application/connect+proto",
		"/grpc.health.v1.Health/Check": "application/proto",
	} {
		c := dialEdge(t, s, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: "+contentType+"\r\nContent-Length: 100\r\n\r\n\x00")
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	eventuallyTrue(t, "all is given back", func() bool { return s.budgets.Requests.Use().Count == 0 && s.budgets.Streams.Use().Count == 0 })
}

// TestUnreadAnswersAreBounded: answers that nobody reads take up no more than their
// budget and are broken off, over HTTP/1.1 and over streams of HTTP/2 whose window is
// closed. A read beyond the budget is refused before its value is made.
func TestUnreadAnswersAreBounded(t *testing.T) {
	s := startEdge(t, tight)
	s.set("big", strings.Repeat("v", 60<<10))
	s.set("small", "v")
	c := dialEdge(t, s, "")
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, c)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: "/kv/big"}} {
		_ = encoder.WriteField(f)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	eventuallyTrue(t, "the answer is counted", func() bool { return s.budgets.Answers.Use().Bytes > 0 })
	get := func(key string) (*http.Response, string) {
		return raw(t, s, "GET /kv/"+key+" HTTP/1.1\r\nHost: x\r\n\r\n", false)
	}
	if res, body := get("big"); res.StatusCode != 429 || res.Header.Get(headerOutcome) != "not-applied" {
		t.Errorf("beyond the budget: %s %.80s", res.Status, body)
	}
	if res, _ := get("small"); res.StatusCode != 200 {
		t.Errorf("a small answer: %s", res.Status)
	}
	eventuallyTrue(t, "the stalled answer makes room", func() bool { res, _ := get("big"); return res.StatusCode == 200 })
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if reset, ok := frame.(*http2.RSTStreamFrame); ok && reset.StreamID == 1 {
			break
		}
	}
}

// TestSlowReaderIsNotCut: a client that takes its answer slowly, but steadily, gets
// all of it, though that takes longer than anybody may stand still.
func TestSlowReaderIsNotCut(t *testing.T) {
	s := startEdge(t, func(c *Config) {
		tight(c)
		c.Budgets.Answers = budget.New("answers", budget.Limits{Bytes: 64 << 20, Patience: time.Second, Pressed: time.Second})
	})
	const size = 24 << 20 // more than the kernel takes at once
	s.set("big", strings.Repeat("v", size))
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /kv/big HTTP/1.1\r\nHost: x\r\n\r\n")
	start, got, buffer := time.Now(), 0, make([]byte, 256<<10)
	for got < size && time.Since(start) < time.Minute {
		n, err := c.Read(buffer)
		got += n
		if err != nil {
			t.Fatalf("cut off after %d bytes, %v: %v", got, time.Since(start), err)
		}
		time.Sleep(3 * time.Second * time.Duration(n) / size)
	}
	if got < size || time.Since(start) < 2*time.Second {
		t.Errorf("%d bytes in %v", got, time.Since(start))
	}
}

// TestBatchStopsReading: once a batch's answer is full no further value is read.
func TestBatchStopsReading(t *testing.T) {
	var reads atomic.Int64
	big := make([]byte, 1<<20)
	s := startEdge(t, func(c *Config) { c.KV = countedKV{c.KV, &reads, big} })
	kv := capstanv1connect.NewKVServiceClient(s.h2c, s.url)
	ops := make([]*capstanv1.Operation, MaxBatchOps)
	for i := range ops {
		ops[i] = &capstanv1.Operation{Op: &capstanv1.Operation_Get{Get: &capstanv1.GetRequest{Key: fmt.Appendf(nil, "k%d", i)}}}
	}
	res, err := kv.Batch(t.Context(), &capstanv1.BatchRequest{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range res.GetResults() {
		if r.GetGet() != nil {
			found++
		} else if r.GetError().GetInfo().GetOutcome() != capstanv1.Outcome_OUTCOME_NOT_APPLIED || r.GetError().GetInfo().GetReason() != capstanv1.Reason_REASON_VALUE_TOO_LARGE {
			t.Fatal(r)
		}
	}
	if found == 0 || found > 4 || reads.Load() > batchConcurrency+4 {
		t.Errorf("%d values of 1 MiB answered, %d of %d read", found, reads.Load(), len(ops))
	}
}

type countedKV struct {
	KV
	reads *atomic.Int64
	value []byte
}

func (k countedKV) Get(context.Context, *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	k.reads.Add(1)
	return &capstanv1.GetResponse{Found: true, Value: k.value}, nil
}

// TestTooManyRequests: requests beyond the count are refused in their own protocol;
// probes are not counted.
func TestTooManyRequests(t *testing.T) {
	s := startEdge(t, tight)
	for range 8 {
		dialEdge(t, s, "PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nv")
	}
	eventuallyTrue(t, "all are counted", func() bool { return s.budgets.Requests.Use().Count == 8 })
	if res, _ := raw(t, s, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", false); res.StatusCode != 200 {
		t.Errorf("a probe: %s", res.Status)
	}
	refused := false
	for range 200 { // until they have stood still for long enough to make room
		_, err := capstanv1connect.NewKVServiceClient(s.h2c, s.url).Get(t.Context(), &capstanv1.GetRequest{Key: []byte("k")})
		if err == nil {
			break
		}
		refused = true
		wantError(t, err, connect.CodeResourceExhausted, capstanv1.Reason(replication.Overloaded), notAppliedOutcome, "again after a pause")
		time.Sleep(10 * time.Millisecond)
	}
	if !refused {
		t.Log("the stalled ones had made room before the first request")
	}
}

// TestConnectionsAreBounded: beyond the bound the connection that has been idle for
// longest makes room, per address and for all; those with a request under way do not.
func TestConnectionsAreBounded(t *testing.T) {
	connections := NewConnections(4, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
		}
	}))
	done := make(chan error, 1)
	go func() { done <- server.Serve(connections.Listen(l)) }()
	defer func() { _ = server.Close(); <-done }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	busy := dial()
	defer busy.Close()
	_, _ = io.WriteString(busy, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	var idle []net.Conn
	for range 3 {
		idle = append(idle, dial())
		defer idle[len(idle)-1].Close()
	}
	eventuallyTrue(t, "four are open", func() bool { open, _, _, _ := connections.Use(); return open == 4 })
	for i := range 3 {
		eventuallyTrue(t, "a new client is served", func() bool {
			c := dial()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				_ = c.Close()
				time.Sleep(50 * time.Millisecond)
				return false
			}
			t.Cleanup(func() { _ = c.Close() })
			return res.StatusCode == 200
		})
		if open, _, closed, _ := connections.Use(); open > 4 || closed < uint64(i+1) {
			t.Errorf("%d open, %d closed for others", open, closed)
		}
	}
	_ = busy.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, err := busy.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the busy connection: %v", err)
	}
}

// TestLocal: a page in a browser cannot reach a loopback address, neither under a name
// of its own nor from another origin.
func TestLocal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(Local(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "n1.example.com"))
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() { _ = server.Close(); <-done }()
	for _, c := range []struct {
		request string
		status  int
	}{
		{"GET /kv/a HTTP/1.1\r\nHost: 127.0.0.1:7820\r\n", 200},
		{"GET /kv/a HTTP/1.1\r\nHost: [::1]:7820\r\n", 200},
		{"GET /kv/a HTTP/1.1\r\nHost: localhost:7820\r\n", 200},
		{"GET /kv/a HTTP/1.1\r\nHost: n1\r\n", 200},
		{"GET /kv/a HTTP/1.1\r\nHost: N1.example.com.\r\n", 200},
		{"GET /kv/a HTTP/1.0\r\n", 200},
		{"POST /capstan.v1.ChaosService/SetCut HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n", 403},
		{"GET /kv/a HTTP/1.1\r\nHost: evil.example:7820\r\n", 403},
		{"GET /kv/a HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n", 403},
		{"GET /livez HTTP/1.1\r\nHost: evil.example\r\n", 200},
		{"PUT /kv/a HTTP/1.1\r\nHost: localhost:7820\r\nOrigin: http://localhost:7820\r\nContent-Length: 0\r\n", 200},
		{"PUT /kv/a HTTP/1.1\r\nHost: localhost:7820\r\nOrigin: http://localhost:3000\r\nContent-Length: 0\r\n", 403},
		{"PUT /kv/a HTTP/1.1\r\nHost: localhost:7820\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n", 403},
		{"PUT /kv/a HTTP/1.1\r\nHost: localhost:7820\r\nOrigin: null\r\nContent-Length: 0\r\n", 403},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.request+"\r\n")
		res, body := answerOf(t, conn)
		_ = conn.Close()
		if res.StatusCode != c.status {
			t.Errorf("%q: %s %s", c.request, res.Status, body)
		}
	}
}

// TestMetricsTakesGetOnly: CONNECT and the like are not answered with the figures.
func TestMetricsTakesGetOnly(t *testing.T) {
	s := startEdge(t, func(c *Config) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "figures") })
	})
	for method, status := range map[string]int{"GET": 200, "CONNECT": 405, "POST": 405, "DELETE": 405} {
		if res, body := raw(t, s, method+" /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", true); res.StatusCode != status {
			t.Errorf("%s: %s %s", method, res.Status, body)
		}
	}
}
