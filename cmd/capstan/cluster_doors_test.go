//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const getPath, putPath, scanPath = "/capstan.v1.KVService/Get", "/capstan.v1.KVService/Put", "/capstan.v1.KVService/Scan"

const (
	asJSON = "Content-Type: application/json"
	// expect is what curl says before a large body: a refusal comes before the
	// body goes out, else it may be lost in the noise of a closing connection.
	expect = "Expect: 100-continue"
)

// The plain door, Connect and the command line on real nodes: one key is the
// same key behind each door of each node.
func TestClusterDoors(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	t.Run("keys", func(t *testing.T) { testKeysThroughDoors(t, c) })
	t.Run("broken bodies", func(t *testing.T) { testBrokenBodies(t, c) })
	t.Run("refused", func(t *testing.T) { testDoorsRefuse(t, c) })
	t.Run("command line", func(t *testing.T) { testCommandLine(t, c) })
}

func testKeysThroughDoors(t *testing.T, c *cluster) {
	keys := []string{
		"a", "a/b", "/a//b/", "..", "a/../b", "./a", "100%", "%2F", "a b", " ", "+", "a?b#c", "a\x00b", "\x00", "\xff\xfe", "ä", "{tag}/x", "\r\n",
		strings.Repeat("k", 4096),
	}
	escape := func(key string) string { // every byte: curl and Go's URL differ in what they leave alone
		var b strings.Builder
		for i := range len(key) {
			fmt.Fprintf(&b, "%%%02x", key[i])
		}
		return b.String()
	}
	escaped := []func(string) string{escape, url.PathEscape}
	for i, key := range keys {
		value := fmt.Sprintf("value %d \x00\xff", i)
		in, out, third := c.nodes[i%3], c.nodes[(i+1)%3], c.nodes[(i+2)%3]
		at := in.url() + "/kv/" + escaped[i%2](key)
		if status, _, body, err := plain(http.MethodPut, at, value); status != 200 {
			t.Errorf("put of %.40q: %d %s %v", key, status, body, err)
			continue
		}
		if status, header, body, err := plain(http.MethodGet, out.url()+"/kv/"+escaped[(i+1)%2](key), ""); status != 200 || body != value || header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("get of %.40q: %d %q %v", key, status, body, err)
		}
		b64 := base64.StdEncoding.EncodeToString
		request := fmt.Sprintf(`{"key":%q}`, b64([]byte(key)))
		if status, _, body, err := plain(http.MethodPost, third.url()+getPath, request, asJSON); status != 200 || !strings.Contains(body, b64([]byte(value))) {
			t.Errorf("Connect get of %.40q: %d %s %v", key, status, body, err)
		}
		if len(key) > 100 && i%2 == 0 {
			continue
		}
		if out, errs, status := c.command("", "get", "--via", out.name, "--hex-key", hex.EncodeToString([]byte(key))); status != 0 || out != value {
			t.Errorf("capstan get of %.40q: %d %q %s", key, status, out, errs)
		}
		if strings.ContainsRune(key, 0) {
			continue // no argument holds it
		}
		if out, errs, status := c.command("", "get", "--via", in.name, "--", key); status != 0 || out != value {
			t.Errorf("capstan get of %.40q as it is: %d %q %s", key, status, out, errs)
		}
	}
	out, errs, status := c.command("", "scan", "--keys-only", "-o", "json")
	for _, key := range keys {
		if !strings.Contains(out, `"`+base64.StdEncoding.EncodeToString([]byte(key))+`"`) {
			t.Errorf("%.40q is not in the scan: %d %s", key, status, errs)
		}
	}
}

// raw sends bytes as they are, and if it is to break off the end of the stream
// after them, and returns the answer.
func raw(t *testing.T, n *serving, text string, breakOff bool) (status int, body string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", n.ip+":7820", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(clusterPatience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if breakOff {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	answer, _ := io.ReadAll(conn)
	_, _ = fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
	_, body, _ = strings.Cut(string(answer), "\r\n\r\n")
	return status, body
}

// absent reports a key that should not be there.
func absent(t *testing.T, c *cluster, key string) {
	t.Helper()
	for _, n := range c.nodes {
		if status, _, body, err := plain(http.MethodGet, n.url()+"/kv/"+key, ""); status != 404 {
			t.Errorf("%s at %s: %d %q %v", key, n.name, status, body, err)
		}
	}
}

func testBrokenBodies(t *testing.T, c *cluster) {
	head := func(path, more string) string { return "PUT " + path + " HTTP/1.1\r\nHost: x\r\n" + more + "\r\n" }
	tests := []struct{ name, text string }{
		{"a body cut short", head("/kv/broken", "Content-Length: 10\r\n") + "half"},
		{"no body at all", head("/kv/broken", "Content-Length: 10\r\n")},
		{"a chunk cut short", head("/kv/broken", "Transfer-Encoding: chunked\r\n") + "a\r\nhalf"},
		{"no last chunk", head("/kv/broken", "Transfer-Encoding: chunked\r\n") + "4\r\nhalf\r\n"},
		{"two lengths", head("/kv/broken", "Content-Length: 4\r\nContent-Length: 5\r\n") + "half"},
		{"a length that is none", head("/kv/broken", "Content-Length: -1\r\n") + "half"},
		{"a length and chunks", head("/kv/broken", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n") + "4\r\nhalf\r\n0\r\n\r\n"},
		{"a Connect body cut short", "POST " + putPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" +
			fmt.Sprintf(`{"key":%q,"value":"AAAA"}`, base64.StdEncoding.EncodeToString([]byte("broken")))},
	}
	for i, test := range tests {
		if status, body := raw(t, c.nodes[i%3], test.text, true); status != 0 && (status < 400 || status >= 500) {
			t.Errorf("%s: %d %s", test.name, status, body)
		}
		absent(t, c, "broken")
	}
	// What is longer than it says: the length counts, the rest is no request.
	if status, body := raw(t, c.nodes[0], head("/kv/longer", "Content-Length: 4\r\n")+"onlythis\r\n\r\n", false); status != 200 {
		t.Errorf("a length too short: %d %s", status, body)
	}
	if _, _, body, _ := plain(http.MethodGet, c.nodes[1].url()+"/kv/longer", ""); body != "only" {
		t.Errorf("a length too short: %q was written", body)
	}
}

func testDoorsRefuse(t *testing.T, c *cluster) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	key := b64("refused")
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	fmt.Fprintf(z, `{"key":%q,"value":"`, key)
	for range 64 {
		_, _ = z.Write(bytes.Repeat([]byte("A"), 1<<20))
	}
	fmt.Fprint(z, `"}`)
	_ = z.Close()
	long := strings.Repeat("k", 4097)
	tests := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		want                     string
	}{
		{"an empty key", "PUT", "/kv/", "x", nil, 400, "REASON_BAD_KEY"},
		{"a long key", "PUT", "/kv/" + long, "x", nil, 400, "REASON_BAD_KEY"},
		{"a large value", "PUT", "/kv/refused", strings.Repeat("v", 1<<20+1), []string{expect}, 413, "REASON_VALUE_TOO_LARGE"},
		{"an unknown level", "PUT", "/kv/refused?consistency=linearisable", "x", nil, 400, "linearisable"},
		{"an unknown parameter", "PUT", "/kv/refused?consistancy=linearizable", "x", nil, 400, "consistancy"},
		{"a bounded write", "PUT", "/kv/refused?consistency=bounded&max_staleness=1s", "x", nil, 400, "REASON_BAD_OPTION"},
		{"acks on a linearizable write", "PUT", "/kv/refused?acks=2", "x", nil, 400, "acks"},
		{"a compressed body", "PUT", "/kv/refused", bomb.String(), []string{"Content-Encoding: gzip", expect}, 415, "content-encoding"},
		{"a condition that fails", "PUT", "/kv/refused", "x", []string{"If-Match: *"}, 412, "REASON_CONDITION_FAILED"},
		{"another method", "PATCH", "/kv/refused", "x", nil, 405, ""},
		{"a compression bomb", "POST", putPath, bomb.String(), []string{asJSON, "Content-Encoding: gzip"}, 429, ""},
		{"a misspelt field", "POST", putPath, `{"key":"` + key + `","valeu":"AAAA"}`, []string{asJSON}, 400, "valeu"},
		{"an unknown enum name", "POST", putPath, `{"key":"` + key + `","consistency":"CONSISTENCY_STRONG"}`, []string{asJSON}, 400, "CONSISTENCY_STRONG"},
		{"an unknown enum number", "POST", putPath, `{"key":"` + key + `","consistency":9}`, []string{asJSON}, 400, "REASON_BAD_OPTION"},
		{"a long key by Connect", "POST", putPath, `{"key":"` + b64(long) + `"}`, []string{asJSON}, 400, "invalid_argument"},
		{"half a message", "POST", putPath, `{"key":"` + key + `"`, []string{asJSON}, 400, "invalid_argument"},
		{"no key", "POST", getPath, `{}`, []string{asJSON}, 400, "invalid_argument"},
	}
	for i, test := range tests {
		status, _, body, err := plain(test.method, c.nodes[i%3].url()+test.path, test.body, test.headers...)
		if test.status == 429 && status >= 400 && status < 500 {
			status = 429 // Connect's code for a message too large
		}
		if err != nil || status != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%s: %d %.300s %v", test.name, status, body, err)
		}
		absent(t, c, "refused")
	}
	// A stream's error comes with its end.
	message := fmt.Sprintf(`{"start":%q,"end":%q}`, b64("b"), b64("a"))
	frame := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
	if _, _, body, err := plain("POST", c.nodes[0].url()+scanPath, string(frame), "Content-Type: application/connect+json"); err != nil || !strings.Contains(body, "invalid_argument") {
		t.Errorf("a scan that ends before it starts: %q %v", body, err)
	}
}

func testCommandLine(t *testing.T, c *cluster) {
	version := ""
	steps := []struct {
		args           string
		stdin          string
		status         int
		stdout, stderr string // parts
	}{
		{args: "put fruit apple", stdout: "committed   "},
		{args: "get fruit", stdout: "apple"},
		{args: "get --via n2 fruit", stdout: "apple"},
		{args: "get -v --via n3 fruit", stdout: "apple", stderr: "by n3, staleness 0s"},
		{args: "get nothing", status: 1, stderr: "not found: nothing"},
		{args: "put --if-absent fruit pear", status: 1, stderr: "not applied: nothing was written, the key's version is "},
		{args: "put --if-present other pear", status: 1, stderr: "not applied: nothing was written, the key is absent"},
		{args: "put --if-version VERSION fruit fig", stdout: "committed   "},
		{args: "put --if-version VERSION fruit plum", status: 1, stderr: "not applied"},
		{args: "get fruit", stdout: "fig"},
		{args: "put fruit -", stdin: "from stdin", stdout: "committed"},
		{args: "get fruit -o json", stdout: `{"found":true,"value":"ZnJvbSBzdGRpbg=="`},
		{args: "delete fruit", stdout: "committed   "},
		{args: "delete fruit", stdout: "(was absent)"},
		{args: "get fruit", status: 1},
		{args: "scan --start b --end a", status: 2, stderr: "error: invalid_argument"},
		{args: "get --consistency strong k", status: 2, stderr: `unknown consistency "strong"`},
		{args: "put --hex-key zz v", status: 2, stderr: "not hexadecimal"},
		{args: "get --via n9 k", status: 2, stderr: `no node "n9"`},
		{args: "get --via http://127.255.255.1:1 k", status: 3, stderr: "unavailable"},
		{args: "put --via http://127.255.255.1:1 k v", status: 3, stderr: "not applied: nothing was written, a retry is safe"},
		{args: "node list", stdout: "alive"},
		{args: "explain --via n2 fruit", stdout: "as n2 sees it: 3 of 3 reachable"},
		{args: "leader transfer 0 n2", stdout: "partition 0  led by n2"},
		{args: "leader transfer 99 n2", status: 2},
		{args: "leader transfer 0 n9", status: 2},
	}
	for i, s := range steps {
		args := strings.Fields(strings.ReplaceAll(s.args, "VERSION", version))
		stdout, stderr, status := c.command(s.stdin, args...)
		if status != s.status || !strings.Contains(stdout, s.stdout) || !strings.Contains(stderr, s.stderr) {
			t.Errorf("capstan %s: %d\n%s%s", s.args, status, stdout, stderr)
		}
		if status == 0 && s.stderr == "" && stderr != "" {
			t.Errorf("capstan %s: it also said %s", s.args, stderr)
		}
		if i == 0 {
			version = strings.Fields(stdout)[1]
		}
	}
	// A value that is too large is refused and changes nothing.
	if _, stderr, status := c.command(strings.Repeat("v", 1<<20+1), "put", "large", "-"); status != 2 || !strings.Contains(stderr, "value") {
		t.Errorf("a large value: %d %s", status, stderr)
	}
	absent(t, c, "large")
}
