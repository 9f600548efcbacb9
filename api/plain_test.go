package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/replication"
)

// raw sends bytes as they are and reads one answer; cut closes the sending
// side first, as a client that goes away in the middle does.
func raw(t *testing.T, s *edgeServer, request string, cut bool) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if cut {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestOddPathsAreKeysByteForByte(t *testing.T) {
	s := startEdge(t)
	for path, key := range map[string]string{
		"/kv/a":                  "a",
		"/kv/a/b":                "a/b",
		"/kv/a%2Fb":              "a/b",
		"/kv/a//b":               "a//b",
		"/kv//":                  "/",
		"/kv/a/":                 "a/",
		"/kv/.":                  ".",
		"/kv/..":                 "..",
		"/kv/../../etc/passwd":   "../../etc/passwd",
		"/kv/%2e%2E/x":           "../x",
		"/kv/%00":                "\x00",
		"/kv/%2500":              "%00",
		"/kv/100%25":             "100%",
		"/kv/%ff%FE":             "\xff\xfe",
		"/kv/a+b":                "a+b",
		"/kv/a%20b":              "a b",
		"/kv/a%3Fb?timeout=1s":   "a?b",
		"/kv/%23":                "#",
		"/kv/a&b=c;d":            "a&b=c;d",
		"/kv/{tenant}:1":         "{tenant}:1",
		"/kv/\xc3\xa4":           "ä",
		"/kv/kv/":                "kv/",
		"http://other.host/kv/a": "a",
	} {
		res, body := raw(t, s, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nval", false)
		if res.StatusCode != 200 || body != "" {
			t.Errorf("PUT %q: %s %s", path, res.Status, body)
			continue
		}
		if v, ok := s.value(key); !ok || v != "val" {
			t.Errorf("PUT %q did not write %q", path, key)
		}
		if res, body := raw(t, s, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", false); res.StatusCode != 200 || body != "val" {
			t.Errorf("GET %q: %s %s", path, res.Status, body)
		}
		if res, body := raw(t, s, "DELETE "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", false); res.StatusCode != 200 || body != "" {
			t.Errorf("DELETE %q: %s %s", path, res.Status, body)
		}
		if _, ok := s.value(key); ok {
			t.Errorf("DELETE %q did not delete %q", path, key)
		}
	}
}

func TestBrokenRequestsChangeNothing(t *testing.T) {
	s := startEdge(t)
	head := func(line, headers string) string { return line + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" }
	big := strings.Repeat("x", 1001)
	for _, c := range []struct {
		name, request string
		status        int
		words         string // "" where net/http itself answers
	}{
		{"empty key", head("GET /kv/", ""), 400, "key is empty"},
		{"long key", head("GET /kv/"+strings.Repeat("k", 4097), ""), 400, "over 4 KiB"},
		{"bad escape", head("GET /kv/%zz", ""), 400, ""},
		{"cut escape", head("GET /kv/a%2", ""), 400, ""},
		{"unknown parameter", head("GET /kv/a?consistencey=eventual", ""), 400, "unknown query parameter"},
		{"parameter twice", head("GET /kv/a?timeout=1s&timeout=2s", ""), 400, "given twice"},
		{"bad query escape", head("GET /kv/a?timeout=%zz", ""), 400, "badly escaped"},
		{"unknown level", head("GET /kv/a?consistency=strong", ""), 400, "unknown consistency"},
		{"empty level", head("GET /kv/a?consistency=", ""), 400, "unknown consistency"},
		{"bounded without bound", head("GET /kv/a?consistency=bounded", ""), 400, "without max_staleness"},
		{"bound without bounded", head("GET /kv/a?max_staleness=5s", ""), 400, "bounded reads only"},
		{"negative bound", head("GET /kv/a?consistency=bounded&max_staleness=-1s", ""), 400, "negative"},
		{"bounded write", head("PUT /kv/a?consistency=bounded", "Content-Length: 0\r\n"), 400, "level for reads"},
		{"acks on a read", head("GET /kv/a?acks=1", ""), 400, "unknown query parameter"},
		{"acks on a linearizable write", head("PUT /kv/a?acks=1", "Content-Length: 0\r\n"), 400, "eventual writes only"},
		{"too many acks", head("PUT /kv/a?consistency=eventual&acks=8", "Content-Length: 0\r\n"), 400, "over 7"},
		{"acks no number", head("PUT /kv/a?consistency=eventual&acks=-1", "Content-Length: 0\r\n"), 400, "no count"},
		{"replicas on linearizable", head("GET /kv/a?replicas=2", ""), 400, "eventual reads only"},
		{"timeout 0", head("GET /kv/a?timeout=0s", ""), 400, "not above 0"},
		{"timeout long", head("GET /kv/a?timeout=1h", ""), 400, "is over"},
		{"session long", head("GET /kv/a", "Capstan-Session: "+strings.Repeat("s", 6145)+"\r\n"), 400, "over 6 KiB"},
		{"session twice", head("GET /kv/a", "Capstan-Session: a\r\nCapstan-Session: b\r\n"), 400, "twice"},
		{"condition on eventual", head("PUT /kv/a?consistency=eventual", "If-Match: *\r\nContent-Length: 0\r\n"), 400, "blind"},
		{"method", head("POST /kv/a", "Content-Length: 0\r\n"), 405, "try: GET, HEAD, PUT, DELETE"},
		{"options", head("OPTIONS /kv/a", ""), 405, "not allowed"},
		{"no body", head("PUT /kv/a", ""), 400, "without a body"},
		{"body cut short", head("PUT /kv/a", "Content-Length: 10\r\n") + "val", 400, "broke off after 3 bytes"},
		{"chunks cut short", head("PUT /kv/a", "Transfer-Encoding: chunked\r\n") + "3\r\nval\r\n", 400, "broke off after 3 bytes"},
		{"chunk lies", head("PUT /kv/a", "Transfer-Encoding: chunked\r\n") + "3\r\nvalue\r\n0\r\n\r\n", 400, "broke off"},
		{"two lengths", head("PUT /kv/a", "Content-Length: 3\r\nContent-Length: 4\r\n") + "valu", 400, ""},
		{"negative length", head("PUT /kv/a", "Content-Length: -3\r\n") + "val", 400, ""},
		{"too large", head("PUT /kv/a", "Content-Length: 1001\r\n") + big, 413, "1001 bytes"},
		{"says it is too large", head("PUT /kv/a", "Content-Length: 9223372036854775807\r\n"), 413, "over 1000 bytes"},
		{"too large in chunks", head("PUT /kv/a", "Transfer-Encoding: chunked\r\n") + "3e9\r\n" + big + "\r\n0\r\n\r\n", 413, "over 1000 bytes"},
		{"encoded", head("PUT /kv/a", "Content-Encoding: gzip\r\nContent-Length: 3\r\n") + "val", 415, "content-encoding"},
		{"multipart", head("PUT /kv/a", "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3\r\n") + "val", 415, "--data-binary"},
		{"no such path", head("GET /kv", ""), 404, "nothing here"},
		{"uncleaned", head("GET //kv/a", ""), 404, "nothing here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := raw(t, s, c.request, true)
			if res.StatusCode != c.status || !strings.Contains(body, c.words) {
				t.Errorf("%s %s\nwant %d %q", res.Status, body, c.status, c.words)
			}
			if c.words != "" {
				if jsonOutcome(t, []byte(body)) != notAppliedOutcome || res.Header.Get("Capstan-Outcome") != "not-applied" {
					t.Error("it does not say that nothing was applied:", res.Header)
				}
			}
			if c.status == 405 && res.Header.Get("Allow") != "GET, HEAD, PUT, DELETE" {
				t.Error("Allow:", res.Header)
			}
			if s.seen() != 0 {
				t.Fatal("it reached the backend")
			}
		})
	}
}

func (s *edgeServer) do(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	res, err := s.http1.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func TestPlainAnswers(t *testing.T) {
	s := startEdge(t)
	put, _ := s.do(t, "PUT", "/kv/a", "apple", "Content-Type", "application/x-www-form-urlencoded")
	if put.StatusCode != 200 || put.Header.Get("ETag") != `"1-65536-n1-aaaa"` || put.Header.Get("Capstan-Version") != "1-65536-n1-aaaa" || put.Header.Get("Capstan-Served-By") != "n1" {
		t.Error(put.Status, put.Header)
	}
	get, body := s.do(t, "GET", "/kv/a", "", "Range", "bytes=0-1", "If-None-Match", `"1-65536-n1-aaaa"`)
	h := get.Header
	if get.StatusCode != 200 || body != "apple" || h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" ||
		h.Get("Cache-Control") != "no-store" || h.Get("Capstan-Tentative") != "false" || h.Get("Capstan-Staleness") != "0s" || h.Get("ETag") != `"1-65536-n1-aaaa"` {
		t.Error(get.Status, body, h)
	}
	head, body := s.do(t, "HEAD", "/kv/a", "")
	if head.StatusCode != 200 || body != "" || head.Header.Get("Content-Length") != "5" {
		t.Error(head.Status, body, head.Header)
	}
	if res, body := s.do(t, "GET", "/kv/b", ""); res.StatusCode != 404 || !strings.Contains(body, `"code":"not_found"`) || res.Header.Get("Capstan-Served-By") != "n1" {
		t.Error(res.Status, body)
	}
	if res, body := s.do(t, "HEAD", "/kv/b", ""); res.StatusCode != 404 || body != "" {
		t.Error(res.Status, body)
	}
	if res, _ := s.do(t, "DELETE", "/kv/b", ""); res.StatusCode != 200 || res.Header.Get("Capstan-Version") == "" {
		t.Error("a delete of an absent key:", res.Status)
	}
	for _, o := range []observed{{"http.Get", "linearizable", "ok"}, {"http.Get", "linearizable", "not_found"}, {"http.Put", "linearizable", "ok"}} {
		if !s.observer.has(o) {
			t.Error("not observed:", o)
		}
	}
}

func TestPlainOverH2C(t *testing.T) {
	s := startEdge(t)
	r, _ := http.NewRequest("PUT", s.url+"/kv/a%2F%00..", strings.NewReader(""))
	res, err := s.h2c.Do(r)
	if err != nil || res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	if _, ok := s.value("a/\x00.."); !ok {
		t.Error("not written")
	}
}

func TestPreconditions(t *testing.T) {
	s := startEdge(t)
	v1 := `"` + versionText(s.set("a", "1")) + `"`
	steps := []struct {
		method, path string
		headers      []string
		status       int
	}{
		{"PUT", "/kv/a", []string{"If-None-Match", "*"}, 412},
		{"PUT", "/kv/b", []string{"If-None-Match", " * "}, 200},
		{"PUT", "/kv/c", []string{"If-Match", "*"}, 412},
		{"DELETE", "/kv/c", []string{"If-Match", "*"}, 412},
		{"PUT", "/kv/a", []string{"If-Match", `"9-9-n9-zzzz"`}, 412},
		{"PUT", "/kv/a", []string{"If-Match", "W/" + v1}, 400}, // a proxy made it weak
		{"PUT", "/kv/a", []string{"If-Match", strings.TrimSuffix(v1, `"`) + `-gzip"`}, 400},
		{"PUT", "/kv/a", []string{"If-Match", "W/" + strings.TrimSuffix(v1, `"`) + `;br"`}, 400},
		{"PUT", "/kv/a", []string{"If-Match", `"1-65536-n1-gzip"`}, 412}, // the id of a node
		{"PUT", "/kv/a", []string{"If-Match", `"0-65536-n1-aaaa"`}, 412},
		{"PUT", "/kv/a", []string{"If-Match", `"01-65536-n1-aaaa"`}, 412},
		{"PUT", "/kv/a", []string{"If-Match", `"what"`}, 412},
		{"PUT", "/kv/a", []string{"If-Match", strings.Trim(v1, `"`)}, 400},
		{"PUT", "/kv/a", []string{"If-Match", v1 + `, "9-9-n9-zzzz"`}, 400},
		{"PUT", "/kv/a", []string{"If-Match", v1, "If-Match", `"9-9-n9-zzzz"`}, 400},
		{"PUT", "/kv/a", []string{"If-Match", ""}, 400},
		{"PUT", "/kv/a", []string{"If-Match", "*, " + v1}, 400},
		{"PUT", "/kv/a", []string{"If-Match", v1, "If-None-Match", "*"}, 400},
		{"PUT", "/kv/a", []string{"If-None-Match", v1}, 400},
		{"PUT", "/kv/a", []string{"If-Match", `W/"x", ` + v1 + " , " + v1}, 200}, // the strong one matches
		{"DELETE", "/kv/a", []string{"If-Match", v1}, 412},                       // it has moved on
		{"DELETE", "/kv/a", []string{"If-Match", "*"}, 200},
	}
	for _, step := range steps {
		res, body := s.do(t, step.method, step.path, "2", step.headers...)
		if res.StatusCode != step.status {
			t.Errorf("%s %s %q: %s %s, want %d", step.method, step.path, step.headers, res.Status, body, step.status)
		}
	}
	version := versionText(s.set("a", "3"))
	res, body := s.do(t, "PUT", "/kv/a", "2", "If-None-Match", "*")
	if res.StatusCode != 412 || res.Header.Get("Capstan-Version") != version || res.Header.Get("ETag") != `"`+version+`"` || !strings.Contains(body, "failed_precondition") {
		t.Error(res.Status, res.Header, body)
	}
}

func TestPlainErrorsSayTheirOutcome(t *testing.T) {
	s := startEdge(t)
	for _, c := range []struct {
		err     error
		method  string
		status  int
		outcome string
	}{
		{&replication.Error{Reason: replication.NoQuorum, Outcome: replication.NotApplied}, "PUT", 503, "not-applied"},
		{&replication.Error{Reason: replication.LeaderChanged, Outcome: replication.Unknown}, "PUT", 504, "unknown"},
		{&replication.Error{Reason: replication.LeaderChanged, Outcome: replication.NotApplied}, "PUT", 503, "not-applied"},
		{&replication.Error{Reason: replication.Overloaded, Outcome: replication.NotApplied}, "PUT", 429, "not-applied"},
		{context.DeadlineExceeded, "PUT", 504, "unknown"},
		{context.DeadlineExceeded, "GET", 504, "not-applied"},
		{io.ErrUnexpectedEOF, "DELETE", 500, "unknown"},
	} {
		s.before = func(context.Context, string, []byte) error { return c.err }
		if res, body := s.do(t, c.method, "/kv/a", "x"); res.StatusCode != c.status || res.Header.Get("Capstan-Outcome") != c.outcome {
			t.Errorf("%s %v: %s %s %s", c.method, c.err, res.Status, res.Header.Get("Capstan-Outcome"), body)
		}
	}
	s.before = func(context.Context, string, []byte) error { panic("boom") }
	if res, body := s.do(t, "PUT", "/kv/a", "x"); res.StatusCode != 500 || res.Header.Get("Capstan-Outcome") != "unknown" || strings.Contains(body, "boom") {
		t.Error(res.Status, body)
	}
}

func TestPages(t *testing.T) {
	s := startEdge(t)
	s.ready = fmt.Errorf("no quorum for partition 9")
	for _, c := range []struct {
		method, path string
		status       int
		words        string
	}{
		{"GET", "/", 200, "/kv/{key}"},
		{"GET", "/livez", 200, "ok"},
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/readyz", 200, "ok"},
		{"GET", "/readyz?level=linearizable", 503, "no quorum"},
		{"GET", "/readyz?level=eventual", 400, "unknown level"},
		{"GET", "/readyz?levle=x", 400, "levle"},
		{"POST", "/livez", 405, "not allowed"},
		{"GET", "/metrics", 404, "nothing here"},
		{"GET", "/nothing", 404, "not_found"},
	} {
		if res, body := s.do(t, c.method, c.path, ""); res.StatusCode != c.status || !strings.Contains(body, c.words) {
			t.Errorf("%s %s: %s %s", c.method, c.path, res.Status, body)
		}
	}
	post := func(path string) string {
		_, body := s.do(t, "POST", path, "{}", "Content-Type", "application/json")
		return body
	}
	if body := post("/grpc.health.v1.Health/Check"); !strings.Contains(body, "SERVING") {
		t.Error(body)
	}
	if body := post("/capstan.v1.ClusterService/GetStatus"); !strings.Contains(body, `"clusterId":"c1"`) {
		t.Error(body)
	}
	if body := post("/capstan.v1.ClusterService/DrainNode"); !strings.Contains(body, "no node named") {
		t.Error(body)
	}
	if body := post("/capstan.v1.ClusterService/LocateKey"); !strings.Contains(body, "key is empty") {
		t.Error(body)
	}
}

func FuzzKeyOf(f *testing.F) {
	for _, seed := range []string{"/kv/a", "/kv/%2F%00", "/kv/%", "/kv/%zz", "/kv//", "/kv", "/kv/\xff%25"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		key, err := keyOf(path)
		rest, isKey := strings.CutPrefix(path, keyPrefix)
		want, wantErr := url.PathUnescape(rest)
		valid := isKey && wantErr == nil && want != "" && len(want) <= MaxKeySize
		if valid != (err == nil) || valid && string(key) != want {
			t.Fatalf("%q: %q, %v; want %q, %v", path, key, err, want, wantErr)
		}
	})
}

func FuzzParseETags(f *testing.F) {
	for _, seed := range []string{"*", `"a"`, `W/"a", "b"`, `"a" "b"`, `,, "a",`, `"`, `W/`, `"1-2-n1-abcd"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		tags, every, err := parseETags(list)
		if err != nil || every {
			if len(tags) > 0 {
				t.Fatal("tags beside an error or *")
			}
			return
		}
		texts := make([]string, len(tags))
		for i, tag := range tags {
			texts[i] = tag.String()
		}
		again, _, err := parseETags(strings.Join(texts, ", "))
		if err != nil || len(again) != len(tags) {
			t.Fatalf("%q does not read back: %v", texts, err)
		}
		for i := range again {
			if again[i] != tags[i] {
				t.Fatalf("%v reads back as %v", tags[i], again[i])
			}
		}
	})
}

func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{"", "consistency=eventual&acks=1", "timeout=5s&replicas=3", "a=b", "acks=1&acks=2", "%zz=%", "max_staleness=1h&consistency=bounded", "&&=&"} {
		f.Add(http.MethodGet, seed)
		f.Add(http.MethodPut, seed)
	}
	f.Fuzz(func(t *testing.T, method, query string) {
		o, err := parseOptions(method, query)
		if err != nil {
			if failureOf(err, true, nil).info.Outcome != notAppliedOutcome {
				t.Fatal("a refusal without an outcome")
			}
			return
		}
		if o.timeout < 0 || o.level > capstanv1.Consistency_CONSISTENCY_EVENTUAL {
			t.Fatalf("%q: %+v", query, o)
		}
		if _, err := url.ParseQuery(strings.ReplaceAll(query, ";", "%3B")); err != nil {
			t.Fatalf("%q is taken although it is no query: %v", query, err)
		}
	})
}
